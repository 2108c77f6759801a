"""Studies say which law their runs follow, or why none can be told, and whether an equivariant arm pays."""

import csv
import json

import numpy as np
import pytest

from equiscale.studies import sweep, sweep_report
from equiscale.studies.scaling_report import lines_of, section
from equiscale.studies.sweep import Axis, Study, one_field
from experiments.study import config_of

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
        one_field("augmentation", "cube", "none"),
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
    study = STUDY._replace(
        fit=("parameters", "examples"), compare=("small, fraction 0.1, cube", "large, fraction 1.0, cube")
    )
    found = write_runs(tmp_path, study)
    page = sweep_report.write(tmp_path, study, found, {}, "").read_text()
    laws = {(row["law"], row["of"]): row for row in numbers(tmp_path / "scaling_law.csv")}
    assert list(laws) == [("cube", "total"), ("cube", "percent"), ("none", "total"), ("none", "percent")]
    for name in ("cube", "none"):
        loss, percent = laws[name, "total"], laws[name, "percent"]
        assert float(loss["exponent_examples_low"]) < 0.25 < float(loss["exponent_examples_high"])
        assert float(percent["exponent_examples"]) == pytest.approx(0.5, rel=0.1)
    assert float(laws["cube", "total"]["exponent_parameters"]) == pytest.approx(0.4, rel=0.3)
    assert "exponent of parameters is not determined" in laws["cube", "percent"]["undetermined"]
    assert "an update takes 6 FLOP a parameter and example" in page
    assert (tmp_path / "scaling_law.png").stat().st_size > 5_000
    assert "Would it pay?" in page and page.count("At this budget large, fraction 1.0, cube does not pay at equal") == 2


def test_one_size_may_be_a_field_of_the_config_and_lines_keep_the_other_apart(tmp_path):
    study = STUDY._replace(fit=("data.fraction",), axes=(*STUDY.axes[:2], STUDY.axes[-1]))
    found = write_runs(tmp_path, study, sizes=False)
    lines = lines_of(tmp_path, study, found)
    assert len(lines) == 6 and {line.name for line in lines} == set(SIZES)
    for line in lines:
        assert line.x[:, 0].tolist() == [0.01, 0.1, 1.0] and np.shape(line.values) == (3, 2)
        if line.of == "percent":
            assert line.fit.law.exponents[0] == pytest.approx(0.5, rel=0.02)
        else:
            assert line.fit is None and line.why == "3 points: a law of 3 parameters needs at least 4"
    _, page = section(tmp_path, study, found, {})
    assert "No law of the loss (small): 3 points: a law of 3 parameters needs at least 4." in page
    assert "small: the percent falls as data.fraction to the power -0." in page


def test_why_there_is_no_law_or_answer_is_said(tmp_path):
    arms = ("small, fraction 0.1, none", "large, fraction 0.1, none")
    study = STUDY._replace(fit=("examples",), compare=arms)
    found = write_runs(tmp_path, study, sizes=False)
    found = {name: p for name, p in found.items() if "large" not in name}
    page = sweep_report.write(tmp_path, study, found, {}, "").read_text()
    assert "No law of the loss (small, cube): their folders do not say how many examples." in page
    assert "No law of the percent (large, none): none of its runs is finished." in page
    assert "Not to be told: large, fraction 0.1, none has not been measured yet." in page
    assert not (tmp_path / "scaling_law.csv").exists()
    with pytest.raises(ValueError, match=r"model\.preset='small' is no number"):
        (tmp_path / "runs" / study.runs()[0].name / "sizes.json").write_text('{"model.preset": "small"}')
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
