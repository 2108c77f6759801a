"""`experiments.train` and `experiments.measure` as a user starts them, at the smallest size."""

import json

import pytest

from equiscale.training.run_folder import read_metrics
from experiments.config import parse_measure
from tests.test_quickstart import start


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    fields = ("--config.training.ema_decay=0.9", "--config.model.dtype=bfloat16", "--config.training.accumulate=2")
    result = start(
        "--config.preset=smoke", *fields, f"--workdir={folder / 'run'}", cache=folder / "cache", module="train"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


def test_training_leaves_a_run_folder(trained):
    folder, result = trained
    assert "256,688  parameters" in result.stdout and "1 process(es)" in result.stdout
    rows = read_metrics(folder / "run")
    assert [row["step"] for row in rows] == [0, 1, 4]
    for row in rows:
        assert row["ema"]["total"] > 0 and row["gradients"]["gradient_purity"] > 0
        assert row["identity_error"] < 1e-5 and row["floor"] > 1e-9, "bfloat16 predictions, float32 metrics"
        assert set(row["spent"]) == {"compile", "train", "evaluate", "save"}


def test_a_checkpoint_is_measured_again_by_another_measure(trained):
    folder, _ = trained
    again = ("--step=1", "--measure=octahedral.enumerate()")
    other = ("--averaged", "--measure=octahedral.haar(3)", "--plug_in", "--molecules=3")
    for arguments in (again, other):
        result = start(f"--workdir={folder / 'run'}", *arguments, cache=folder / "cache", module="measure")
        assert result.returncode == 0, result.stderr[-3000:]
    first, second = map(json.loads, (folder / "run" / "measured.jsonl").read_text().splitlines())
    row = read_metrics(folder / "run")[1]
    assert first["percent"] == pytest.approx(row["percent"], rel=1e-3) and first["step"] == 1
    assert second["averaged"] and second["estimator"] == "plug-in" and second["n_examples"] == 3
    wrong = start(f"--workdir={folder / 'run'}", "--measure=haar(3)", cache=folder / "cache", module="measure")
    assert wrong.returncode != 0 and "is no measure" in wrong.stderr


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
