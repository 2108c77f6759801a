"""Studies say which law their runs follow, or why none can be told, and whether an equivariant arm pays."""

import csv
import json
import re

import numpy as np
import pytest

from equiscale.studies import sweep, sweep_report
from equiscale.studies.scaling_report import cost_of_update, lines_of, scaling_figure, section
from equiscale.studies.sweep import Axis, Study, one_field
from experiments.jobs import config_of

SIZES = {"small": 1e4, "middle": 1e5, "large": 1e6}
STUDY = Study(
    "A study",
    "a figure",
    "denoise_voxels",
    "smoke",
    {"training.steps": 4},
    (
        Axis("model", {name: {"model.preset": name} for name in SIZES}),
        one_field("data.fraction", 0.01, 0.1, 1.0),
        one_field("seed", 0, 1),
    ),
)


def loss_of(parameters, examples):
    return 0.5 + 30 * parameters**-0.4 + 8 * examples**-0.25


def write_runs(workdir, study, sizes=True):
    """Runs whose loss and percent are laws of their sizes, times a normal error of about 1 % in each run."""
    rng = np.random.default_rng(0)
    for run in study.runs():
        folder = workdir / "runs" / run.name
        folder.mkdir(parents=True)
        fraction = run.overrides["data.fraction"]
        of = {"parameters": SIZES[run.overrides["model.preset"]], "examples": 2e4 * fraction}
        training = {"steps": 4, "batch_size": 8}
        (folder / "config.json").write_text(json.dumps({"training": training, "data": {"fraction": fraction}}))
        if sizes:
            (folder / "sizes.json").write_text(json.dumps(of))
        errors = 1 + 0.01 * rng.standard_normal(2)
        total, percent = loss_of(**of) * errors[0], 40 * of["examples"] ** -0.5 * errors[1]
        rows = []
        for step, factor in ((0, 9.0), (2, 2.0), (4, 1.0)):
            row = {"total": factor * total, "percent": factor * percent, "equiv": factor**2 * total * percent / 100}
            row["mean"] = row["total"] - row["equiv"]
            row |= {f"{name}_stderr": 0.01 * value for name, value in row.items()}
            speed = {"steps_per_second": 2.0, "flops_per_second": 2.0 * 6 * of["parameters"] * 8} if step else {}
            row |= {"step": step, "floor": 1e-9, "below_floor": False, "measure": "octahedral.enumerate()"}
            rows.append(row | speed)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folders = {run.name: workdir / "runs" / run.name for run in study.runs()}
    return {name: sweep.progress(folder) for name, folder in folders.items()}


def numbers(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_laws_of_both_sizes_and_the_best_of_a_budget(tmp_path):
    study = STUDY._replace(fit=("parameters", "examples"))
    found = write_runs(tmp_path, study)
    arms = sweep_report.by_arm(found, {run.name: study.arm(run) for run in study.runs()})
    _, page = section(tmp_path, study, found, arms)
    loss, percent = numbers(tmp_path / "scaling_law.csv")
    assert (loss["of"], percent["of"]) == ("total", "percent") and loss["arms"] == "9"
    assert float(loss["exponent_examples_low"]) < 0.25 < float(loss["exponent_examples_high"])
    assert float(loss["exponent_parameters"]) == pytest.approx(0.4, rel=0.3)
    assert float(percent["exponent_examples"]) == pytest.approx(0.5, rel=0.1)
    assert "exponent of parameters is not determined" in percent["undetermined"]
    assert "the loss falls as parameters to the power -0." in page
    assert "an update takes 6 FLOP a parameter and example" in page
    # Of the largest arm 40 / sqrt(20,000) % of its loss is equivariance error, and the law's offset is 0.5.
    total, share = loss_of(max(SIZES.values()), 2e4), 40 / np.sqrt(2e4)
    said = re.search(r"equivariance error is ([\d.]+) % of it, and [\d.]+ \(([\d.]+) to ([\d.]+)\) %", page)
    at_best, low, high = map(float, said.groups())
    assert at_best == pytest.approx(share, rel=0.03) and low < share * total / (total - 0.5) < high
    assert (tmp_path / "scaling_law.png").stat().st_size > 5_000
    # The law's frontier is that of the best of a fine grid of sizes of that cost; runs' has each point's own percent.
    lines, costs = lines_of(tmp_path, study, found), cost_of_update(tmp_path, study, arms)
    law = lines[0].fit.law
    *_, budgets, shares = scaling_figure(lines, study.fit, arms, "A title", costs).axes
    (best,) = (line for line in budgets.lines if line.get_label() == f"by the law of {lines[0].name}")
    parameters = np.geomspace(1e2, 1e8, 4000)
    for budget, at_best in best.get_xydata()[::20]:
        examples = budget / costs[0] / parameters
        assert at_best == pytest.approx(law.loss(np.stack([parameters, examples], 1)).min(), rel=1e-4)
    rows = {row["flop"]: row for arm in arms.values() for row in arm}
    flop, percent = shares.lines[0].get_data()
    assert percent == pytest.approx([rows[at]["percent"] for at in flop]) and rows[flop[-1]]["total"] == min(
        row["total"] for row in rows.values()
    )


def test_one_size_may_be_a_field_of_the_config_and_lines_keep_the_other_apart(tmp_path):
    study = STUDY._replace(fit=("data.fraction",))
    found = write_runs(tmp_path, study, sizes=False)
    lines = lines_of(tmp_path, study, found)
    assert [(line.name, line.of) for line in lines] == [(name, of) for name in SIZES for of in ("total", "percent")]
    for line in lines:
        assert line.x[:, 0].tolist() == [0.01, 0.1, 1.0] and np.shape(line.values) == (3, 2)
        if line.of == "percent":
            assert line.fit.law.exponents[0] == pytest.approx(0.5, rel=0.02) and line.fit.law.offset == 0
        else:
            assert line.fit is None and line.why == "3 points: a law of 3 parameters needs at least 4"


def test_a_report_answers_or_says_why_not(tmp_path):
    axes = (Axis("model", {name: {"model.preset": name} for name in SIZES}), one_field("data.fraction", 0.1, 1.0))
    study = STUDY._replace(axes=axes, fit=("examples",), compare=("small, fraction 0.1", "small, fraction 1.0"))
    found = write_runs(tmp_path, study, sizes=False)
    found = {name: p for name, p in found.items() if "large" not in name}
    page = sweep_report.write(tmp_path, study, found, {}, "").read_text()
    assert page.count("the equivariant arm (small, fraction 1.0) pays at equal time: after 2 seconds") == 2
    assert (tmp_path / "efficiency_gap.png").exists() and (tmp_path / "time_to_equivariance.csv").exists()
    assert "No law of the loss (small): their folders do not say how many examples." in page
    assert "No law of the percent (large): none of its runs is finished." in page
    assert not (tmp_path / "scaling_law.csv").exists()
    (_, body), answer = sweep_report.would_it_pay(tmp_path, study._replace(compare=("large", "small")), {}, {})
    assert body == "<p>Not to be told: large has not been measured yet.</p>" and answer == ""
    (tmp_path / "runs" / study.runs()[0].name / "sizes.json").write_text('{"model.preset": "small"}')
    with pytest.raises(ValueError, match=r"model\.preset='small' is no number"):
        lines_of(tmp_path, study._replace(fit=("model.preset",)), dict(list(found.items())[:1]))


def test_what_a_study_cannot_fit_or_compare_is_named():
    known = STUDY._replace(axes=(Axis("kind", {"voxels": {}, "points": {"task": "denoise_points"}}), STUDY.axes[1]))
    for wrong, words in (
        ({"fit": ("noise_sigma",)}, "fit='noise_sigma' is neither parameters nor examples nor a field that a run sets"),
        ({"compare": ("voxels, fraction 0.1", "spheres")}, "must be two arms, plain and equivariant, of"),
        ({"compare": ("voxels, fraction 0.1", "points, fraction 0.1")}, "losses are of different tasks"),
    ):
        with pytest.raises(ValueError, match=words):
            known._replace(**wrong).check(config_of)
    known._replace(fit=("examples",), compare=("voxels, fraction 0.1", "voxels, fraction 1.0")).check(config_of)
