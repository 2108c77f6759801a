"""Studies as data: their runs, the average over seeds, and a report that hides nothing."""

import csv
import importlib
import json
import pathlib
import shlex

import numpy as np
import pytest
from matplotlib.figure import Figure

from configs import denoise_voxels
from configs.studies import proteina_percent, voxmol_percent, voxmol_properties
from equiscale.studies import ends_figure, sweep, sweep_report
from equiscale.studies.report import save_figure
from equiscale.studies.sweep import Axis, Run, Study, one_field
from equiscale.tasks.property_scores import STATISTICS
from experiments.jobs import commands_left, config_of, plan, study_of

STUDIES = pathlib.Path(__file__).parents[2] / "configs" / "studies"
STUDY = Study(
    "A study",
    "a figure",
    "denoise_voxels",
    "smoke",
    {"training.steps": 4},
    (
        Axis("model", {"plain": {"model.preset": "cpu_0.3M"}, "wide": {"model.preset": "cpu_1M", "seed": 7}}),
        one_field("data.fraction", 0.5, 1.0),
        one_field("seed", 0, 1),
    ),
)


def row(step, percent, total=2.0, stderr=0.1):
    equiv = percent / 100 * total
    values = {"total": total, "mean": total - equiv, "equiv": equiv, "percent": percent}
    errors = {f"{name}_stderr": stderr for name in values}
    return {"step": step, **values, **errors, "floor": 1e-9, "below_floor": False, "measure": "octahedral.enumerate()"}


def write_run(folder, rows, steps=4):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"training": {"steps": steps}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_runs_are_all_combinations_and_later_axes_win():
    runs = STUDY.runs()
    assert len(runs) == len({run.name for run in runs}) == 8
    assert runs[0].name == "model=plain,fraction=0.5,seed=0"
    assert runs[-1].overrides == {"training.steps": 4, "model.preset": "cpu_1M", "seed": 1, "data.fraction": 1.0}
    assert {STUDY.arm(run) for run in runs} == {f"{m}, fraction {f}" for m in ("plain", "wide") for f in ("0.5", "1.0")}
    assert [run.name for run in STUDY.runs("*wide*0.5*seed=1")] == ["model=wide,fraction=0.5,seed=1"]
    with pytest.raises(ValueError, match="no run matches 'nothing'; there are model=plain"):
        STUDY.runs("nothing")


def test_a_field_that_the_task_does_not_have_is_named():
    STUDY.check(config_of)
    with pytest.raises(ValueError, match=r"training\.stepz is no field of configs/denoise_voxels\.py"):
        STUDY._replace(overrides={"training.stepz": 4}).check(config_of)
    with pytest.raises(ValueError, match="axis rate has the label '1/2'"):
        STUDY._replace(axes=(Axis("rate", {"1/2": {}}),)).check(config_of)


def test_a_choice_of_an_axis_may_be_another_task(tmp_path):
    axis = Axis("kind", {"voxels": {}, "points": {"task": "denoise_points", "noise_sigma": 0.2}})
    study = STUDY._replace(axes=(axis, one_field("seed", 0, 1)))
    assert [run.task for run in study.runs()] == ["denoise_voxels"] * 2 + ["denoise_points"] * 2
    assert study.runs()[-1].overrides == {"training.steps": 4, "noise_sigma": 0.2, "seed": 1}
    assert study.tasks == ["denoise_voxels", "denoise_points"] and STUDY.tasks == ["denoise_voxels"]
    assert [study.arm(run) for run in study.runs()] == ["voxels"] * 2 + ["points"] * 2
    command = shlex.join(commands_left(plan(study, tmp_path)[-1])[0])
    assert "--config=configs/denoise_points.py" in command and "task" not in command.replace("denoise", "")
    study.check(config_of)
    with pytest.raises(ValueError, match=r"grid\.radius is no field of configs/denoise_points\.py"):
        study._replace(overrides={"grid.radius": 0.4}).check(config_of)


@pytest.mark.parametrize("name", [p.stem for p in STUDIES.glob("*.py") if p.stem != "__init__"])
@pytest.mark.parametrize("scale", sweep.SCALES)
def test_every_scale_of_every_study_fits_its_task(name, scale):
    study = study_of(importlib.import_module(f"configs.studies.{name}").get_config(scale))
    study.check(config_of)
    jobs = plan(study, pathlib.Path("study"))
    assert len({job.folder for job in jobs}) == len(jobs) >= len(study.runs())


def test_runs_start_from_one_of_the_same_molecules_network_and_seed():
    config = voxmol_properties.get_config("smoke")
    config.base.data.limit = 99
    config.axes = (*config.axes[:-1], one_field("seed", 0, 1))
    study = study_of(config)
    jobs = plan(study, pathlib.Path("study"))
    first = {job.folder: job for job in jobs if job.study is study.pretraining}
    assert len(first) == 4 and list(first) == [job.folder for job in jobs[:4]]
    for job in jobs[4:]:
        pretrained = "pretrained" in job.name or "further" in job.name
        assert (job.after is not None) == pretrained
        assert job.run.overrides["encoder.run"] == (str(job.after) if pretrained else "")
        if pretrained:
            fields = first[job.after].run.overrides
            for name in ("seed", "augmentation", "model.preset", "data.limit"):
                assert fields.get(name) == job.run.overrides.get(name), name
            assert "encoder.run" not in fields
    some = plan(study, pathlib.Path("study"), "*encoder=frozen pretrained*none*seed=1*")
    assert [job.name for job in some] == [
        "pretraining/model=cpu_0.02M,augmentation=none,seed=1",
        "model=cpu_0.02M,encoder=frozen pretrained,augmentation=none,seed=1",
    ]
    with pytest.raises(ValueError, match="has no pretraining"):
        study._replace(pretraining=None).check(config_of)


def test_data_that_is_not_real_is_said_on_every_figure():
    config = proteina_percent.get_config("smoke")
    assert study_of(config).heading.endswith("(synthetic chains)")
    config.base.data.folder = "sets/pdb"
    assert study_of(config).heading == config.title
    assert STUDY.heading == STUDY.title


def test_only_what_differs_from_the_preset_is_said():
    config = voxmol_percent.get_config("smoke")
    config.update_from_flattened_dict({"base.training.steps": 9})
    study = Study.of(config, denoise_voxels.get_config("smoke"))
    assert study.overrides == {"training.steps": 9, "evaluation.instruments": ()}


def test_seeds_are_averaged_with_both_kinds_of_error():
    curves = [[row(0, 60.0), row(4, p)] for p in (10.0, 14.0, 18.0)] + [[row(0, 60.0), row(2, 30.0), row(4, 14.0)]]
    first, last = sweep_report.mean_curve(curves)
    assert (first["step"], last["step"], last["n_seeds"]) == (0, 4, 4)
    assert last["percent"] == pytest.approx(14.0)
    between = np.var([10, 14, 18, 14], ddof=1) / 4
    assert last["percent_stderr"] == pytest.approx(np.sqrt(0.1**2 + between))
    assert first["percent_stderr"] == pytest.approx(0.1)


def test_costs_are_steps_times_what_a_step_costs():
    rates = [{"steps_per_second": s, "flops_per_second": 100.0 * s} for s in (2.0, 4.0, 8.0)]
    curve = [row(0, 60.0), *(row(step, 9.0) | r for step, r in zip((1, 2, 6), rates, strict=True))]
    last = sweep_report.mean_curve([curve, curve])[-1]
    assert last["flop"] == pytest.approx(600.0) and last["train_seconds"] == pytest.approx(6 / 4)
    assert "flop" not in sweep_report.mean_curve([curve, [row(0, 60.0), row(6, 9.0)]])[-1]


def scores(r2):
    return {"logp": {"unit": "", **dict.fromkeys(STATISTICS, r2), **{f"{name}_stderr": 0.1 for name in STATISTICS}}}


def test_properties_are_averaged_over_seeds_and_reported(tmp_path):
    folders = {run.name: tmp_path / "runs" / run.name for run in STUDY.runs()}
    for name, r2 in zip(folders, (0.5, 0.7), strict=False):
        write_run(folders[name], [row(0, 60.0), row(4, 0.5) | {"properties": scores(r2)}])
    found = {name: p for name, f in folders.items() if (p := sweep.progress(f)) is not None}
    page = sweep_report.write(tmp_path, STUDY, found, {}, "").read_text()
    stderr = np.sqrt(0.1**2 + np.var([0.5, 0.7], ddof=1) / 2)
    assert f"0.60 ± {2 * stderr:.2f}, averaged 0.60" in page
    with (tmp_path / "properties.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert line["arm"] == "plain, fraction 0.5" and line["property"] == "logp"
    assert float(line["r2"]) == pytest.approx(0.6) and float(line["r2_stderr"]) == pytest.approx(stderr)
    assert (tmp_path / "properties.png").stat().st_size > 5_000


def test_the_report_says_what_is_there_and_what_is_not(tmp_path):
    folders = {run.name: tmp_path / "runs" / run.name for run in STUDY.runs()}
    names = list(folders)
    for name in names[:2]:
        write_run(folders[name], [row(0, 60.0), row(1, 9.0), row(4, 0.5)])
    write_run(folders[names[2]], [row(0, 50.0), row(2, 20.0)])
    found = {name: p for name, f in folders.items() if (p := sweep.progress(f)) is not None}
    assert [p.done for p in found.values()] == [True, True, False]
    path = sweep_report.write(tmp_path, STUDY, found, {names[4]: "out of memory"}, "the command")
    page = path.read_text()
    for words in ("step 2 of 4", "failed, out of memory", f"{names[5]}: not begun", "the command", "training.steps"):
        assert words in page
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["arm"] for r in rows] == ["plain, fraction 0.5", "plain, fraction 1.0"]
    assert rows[0]["seeds"] == "2" and rows[0]["first_step_under_10_percent"] == "1"
    assert rows[0]["first_step_under_0.1_percent"] == "" and float(rows[0]["percent"]) == 0.5
    assert (
        (tmp_path / "cost.png").exists()
        and (tmp_path / "percent.png").stat().st_size > 5_000
        and (tmp_path / "percent.pdf").exists()
    )


def test_tasks_share_a_figure_of_percents_and_none_of_losses(tmp_path):
    axis = Axis("kind", {"voxels": {}, "points": {"task": "denoise_points"}})
    study = STUDY._replace(axes=(axis,))
    for run in study.runs():
        more = {"percent_reducible": 5.0, "percent_reducible_stderr": 0.2} if run.task == "denoise_points" else {}
        write_run(tmp_path / run.name, [row(0, 60.0) | more, row(4, 4.0) | more])
    found = {run.name: sweep.progress(tmp_path / run.name) for run in study.runs()}
    page = sweep_report.write(tmp_path, study, found, {}, "the command").read_text()
    assert (tmp_path / "percent.png").exists() and not (tmp_path / "cost.png").exists()
    assert "% of reducible loss" in page and "5 ± 0.4" in page and "units of their own" in page
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["percent_reducible"] for r in rows] == ["", "5.0"]


def test_ends_are_drawn_against_a_field(tmp_path):
    """Arms that differ in it alone are one line, and an arm without it is a line of its own."""
    kinds = {f"wide, {f}": {"model.preset": "cpu_1M", "data.fraction": f} for f in (0.5, 1.0)} | {"all": {}}
    study = STUDY._replace(axes=(Axis("kind", kinds), one_field("seed", 0, 1)), against="data.fraction")
    study.check(config_of)
    assert ends_figure.lines_of(study) == {"wide": {"wide, 0.5": 0.5, "wide, 1.0": 1.0}, "all": {"all": None}}
    for run in study.runs():
        write_run(tmp_path / run.name, [row(0, 60.0), row(4, 4.0 if "all" in run.name else 2.0)])
    found = {run.name: sweep.progress(tmp_path / run.name) for run in study.runs()}
    page = sweep_report.write(tmp_path, study, found, {}, "the command").read_text()
    assert "against data.fraction" in page and (tmp_path / "ends.pdf").stat().st_size > 5_000
    figure = ends_figure.ends_figure(
        study, sweep_report.by_arm(found, {run.name: study.arm(run) for run in study.runs()})
    )
    ax = figure.axes[0]
    (level,) = (line for line in ax.lines if line.get_label() == "all")
    (trained,) = (bars.lines[0] for bars in ax.containers if bars.get_label() == "wide")
    assert list(level.get_ydata()) == [4.0, 4.0] and trained.get_xydata().tolist() == [[0.5, 2.0], [1.0, 2.0]]
    with pytest.raises(ValueError, match=r"against='noise_sigma' is a field that no run"):
        study._replace(against="noise_sigma").check(config_of)
    with pytest.raises(ValueError, match=r"model\.preset='cpu_1M' is no number"):
        ends_figure.lines_of(study._replace(against="model.preset"))


def test_noise_of_gradients_is_averaged_over_seeds_and_reported(tmp_path):
    for run, ratio in zip(STUDY.runs(), (0.6, 0.8), strict=False):
        noise = {"plain": {"ratio": 1.0}, "rao_blackwell": {"ratio": ratio}}
        write_run(
            tmp_path / run.name, [row(0, 60.0) | {"gradient_noise": noise}, row(4, 4.0) | {"gradient_noise": noise}]
        )
    found = {run.name: p for run in STUDY.runs() if (p := sweep.progress(tmp_path / run.name)) is not None}
    page = sweep_report.write(tmp_path, STUDY, found, {}, "the command").read_text()
    assert "0.7 ± 0.2" in page  # a standard error of 0.1 between two seeds
    with (tmp_path / "gradient_noise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["step"], r["target"], float(r["ratio"])) for r in rows][1] == ("0", "rao_blackwell", 0.7)


def test_long_titles_are_broken_into_lines(tmp_path):
    figure = Figure(figsize=(4, 3))
    figure.suptitle("a word " * 20 + "\nand a line")
    save_figure(figure, tmp_path / "figure.png")
    lines = figure.get_suptitle().splitlines()
    assert len(lines) > 3 and max(map(len, lines)) <= 52 and lines[-1] == "and a line"


def test_nothing_measured_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to report"):
        sweep_report.write(tmp_path, STUDY, {}, {}, "")


def test_a_run_that_was_not_begun_has_no_progress(tmp_path):
    assert sweep.progress(tmp_path / Run({"seed": "0"}, {}, "denoise_voxels").name) is None
