"""`experiments.train` and `experiments.measure` as a user starts them, at the smallest size."""

import json

import numpy as np
import pytest

from configs import denoise_voxels
from equiscale.tasks.measure_names import parse_measure
from equiscale.training.run_folder import read_metrics
from experiments.config import read_run
from experiments.kept_rows import KeptRows
from tests.commands import start


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    fields = ("--config.training.ema_decay=0.9", "--config.model.dtype=bfloat16", "--config.training.accumulate=2")
    result = start("--config.preset=smoke", *fields, f"--workdir={folder / 'run'}", module="train")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


@pytest.mark.slow  # other tests start the command with other settings
def test_training_leaves_a_run_folder(trained):
    folder, result = trained
    assert "24,656  parameters" in result.stdout and "1 process(es)" in result.stdout
    rows = read_metrics(folder / "run")
    assert [row["step"] for row in rows] == [0, 1, 4]
    for row in rows:
        assert row["ema"]["total"] > 0 and row["gradients"]["gradient_purity"] > 0
        assert row["identity_error"] < 1e-5 and row["floor"] > 1e-9, "bfloat16 predictions, float32 metrics"
        assert set(row["spent"]) == {"compile", "train", "evaluate", "save", "profile"}


@pytest.mark.slow  # what it computes is tested in test_decompose
def test_a_checkpoint_is_measured_again_by_another_measure(trained):
    folder, _ = trained
    again = ("--step=1", "--measure=octahedral.enumerate()", "--by_element")
    other = ("--averaged", "--measure=octahedral.haar(3)", "--plug_in", "--molecules=3")
    for arguments in (again, other):
        result = start(f"--workdir={folder / 'run'}", *arguments, module="measure")
        assert result.returncode == 0, result.stderr[-3000:]
    table = (folder / "run" / "by_element-1.csv").read_text().splitlines()
    assert len(table) == 25 and table[1].startswith("none,0.0,0.0") and any("120° about x+y-z" in row for row in table)
    first, second = map(json.loads, (folder / "run" / "measured.jsonl").read_text().splitlines())
    row = read_metrics(folder / "run")[1]
    assert first["percent"] == pytest.approx(row["percent"], rel=1e-3) and first["step"] == 1
    assert second["averaged"] and second["estimator"] == "plug-in" and second["n_examples"] == 3
    wrong = start(f"--workdir={folder / 'run'}", "--measure=haar(3)", module="measure")
    assert wrong.returncode != 0 and "is no measure" in wrong.stderr


@pytest.mark.slow  # what it computes is tested in test_ensemble
def test_an_ensemble_of_runs_tells_what_is_irreducible(trained):
    """Runs of another start on the same molecules; one of another seed has seen what is held out here."""
    folder, _ = trained
    for name, field in (("again", "training.seed=1"), ("elsewhere", "seed=1")):
        arguments = (f"--config.{field}", "--config.evaluation.instruments=()", f"--workdir={folder / name}")
        result = start("--config.preset=smoke", *arguments, module="train")
        assert result.returncode == 0, result.stderr[-3000:]
    first, again = (read_metrics(folder / name)[0] for name in ("run", "again"))
    assert first["total"] != again["total"]
    result = start(f"--workdir={folder / 'run'}", f"--ensemble={folder / 'again'}", module="measure")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "% of what lies above the irreducible loss (ensemble of 2)" in result.stdout
    *_, row = map(json.loads, (folder / "run" / "measured.jsonl").read_text().splitlines())
    assert row["irreducible_from"] == "ensemble of 2" and row["percent_reducible"] > row["percent"]
    wrong = start(f"--workdir={folder / 'run'}", f"--ensemble={folder / 'elsewhere'}", module="measure")
    assert wrong.returncode != 0 and "seed 1 and this run 0" in wrong.stderr
    itself = start(f"--workdir={folder / 'run'}", f"--ensemble={folder / 'run'}", module="measure")
    assert itself.returncode != 0 and "started like another of these runs, from training seed 0" in itself.stderr


@pytest.mark.slow  # its parts are tested in tests/data and tests/training
def test_molecules_are_put_on_disk_and_trained_on_from_there(tmp_path, trained):
    rng = np.random.default_rng(0)
    frames = []
    for i in range(40):
        n = 3 + i % 5
        atoms = [f"{rng.choice(['C', 'H', 'O'])} {x:.4f} {y:.4f} {z:.4f}" for x, y, z in rng.normal(size=(n, 3))]
        frames.append("\n".join([str(n), "random places", *atoms]))
    (tmp_path / "frames.xyz").write_text("\n".join(frames) + "\n")
    (tmp_path / "notes.txt").write_text("no molecules")
    prepared = start(
        f"--output={tmp_path / 'set'}", "--compounds=frame", str(tmp_path / "frames.xyz"), str(tmp_path / "notes.txt"),
        module="prepare_data",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr[-3000:]
    assert "kept 40 of 41: 1 in a file of unknown kind (.txt)" in prepared.stdout
    assert "no reader for '.txt'" in prepared.stdout + prepared.stderr
    fields = (f"--config.data.folder={tmp_path / 'set'}", "--config.data.buckets=2", "--config.data.validation=0.2")
    result = start(
        "--config.preset=smoke", *fields, f"--workdir={tmp_path / 'run'}", "--tensorboard", "--profile=2,3",
        "--config.evaluation.at=(2,)", "--config.evaluation.instruments=()", module="train",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "40 molecules in" in result.stdout
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [0, 1, 2, 4]
    assert list((tmp_path / "run" / "tensorboard").iterdir()) and list((tmp_path / "run" / "profile").rglob("*.pb"))
    again = start(f"--output={tmp_path / 'set'}", str(tmp_path), module="prepare_data")
    assert again.returncode != 0 and "delete it, or write to another folder" in again.stderr


def test_a_study_runs_what_is_missing_and_outlives_a_failure(tmp_path):
    study = ("--config=configs/studies/voxmol_points.py", "--config.scale=smoke", "--only=*points*none*")
    study += ("--config.base.evaluation.instruments=()",)
    settings = {"module": "study"}
    broken = start(*study, "--config.base.data.limit=0", f"--workdir={tmp_path}", **settings)
    assert broken.returncode == 1 and "FAILED: ValueError: limit=0" in broken.stdout
    for finished in ("0 of them finished", "1 of them finished"):
        result = start(*study, f"--workdir={tmp_path}", **settings)
        assert result.returncode == 0 and finished in result.stdout, result.stdout + result.stderr[-3000:]
    assert "because of voxels" in (tmp_path / "report.html").read_text()


def test_a_run_of_an_earlier_version_has_later_fields_by_default(tmp_path):
    config = denoise_voxels.get_config("smoke")
    config.data.limit = 77
    older = config.to_dict()
    del older["data"]["fraction"], older["translation"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    found = read_run(tmp_path)
    assert found.data.fraction == 1.0 and found.translation == 0.0 and found.data.limit == 77
    with pytest.raises(FileNotFoundError, match="make the run first"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text, name",
    [
        ("paper16()", "paper16"),
        ("octahedral.haar(10)", "octahedral.haar(10)"),
        ("so3.coset(12, n=2)", "so3.coset(12, n=2)"),
        ("so3.normal(4, sigma=0.1)", "so3.normal(4, sigma=0.1)"),
    ],
)
def test_measures_by_name(text, name):
    assert parse_measure(text).name == name


@pytest.mark.parametrize("text", ["", "so3", "so3.coset(7)", "so3.coset(12, m=2)", "so3.multiply(1)", "so3.haar(x)"])
def test_what_is_no_measure_is_refused(text):
    with pytest.raises(ValueError):
        parse_measure(text)


def test_rows_are_kept_as_they_come_and_those_of_other_settings_are_not(tmp_path):
    first = KeptRows(tmp_path / "rows.json", {"seeds": 2})
    assert not first.has({"kind": "a", "n": 3})
    first.add({"kind": "a", "n": 3, "found": 0.5})
    again = KeptRows(tmp_path / "rows.json", {"seeds": 2})
    assert again.has({"kind": "a", "n": 3}) and not again.has({"kind": "a", "n": 5})
    assert again.rows == [{"kind": "a", "n": 3, "found": 0.5, "seeds": 2}]
    assert not KeptRows(tmp_path / "rows.json", {"seeds": 3}).has({"kind": "a", "n": 3})
