"""The main job end to end at its smallest, as a user starts it."""

import json

import matplotlib.image
import pytest

from equiscale.training.run_folder import read_metrics
from tests.commands import start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    arguments = ("--config.preset=smoke", f"--workdir={folder / 'run'}")
    result = start(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, arguments, result


def test_it_leaves_a_run_folder_and_a_report(finished):
    folder, _, result = finished
    run = folder / "run"
    assert "report.html" in result.stdout and "kept" in result.stdout
    assert json.loads((run / "config.json").read_text())["preset"] == "smoke"
    assert json.loads((run / "versions.json").read_text())["packages"]["jax"]
    for arm in ("cube", "none"):
        rows = read_metrics(run / arm)
        assert [row["step"] for row in rows] == [0, 1, 4]
        assert all(row["measure"] == "octahedral.enumerate()" and row["identity_error"] < 1e-5 for row in rows)
        assert all(0 < row["floor"] < 1e-6 < row["percent"] < 100 for row in rows)
        assert (run / arm / "checkpoints" / "4").is_dir()
        assert all(row["gradients"]["gradient_purity"] > 0 for row in rows)
        assert set(rows[0]["gradients"]["gradient_groups"]) > {"stem", "head", "down_0"}
        assert sorted(int(p.name) for p in (run / arm / "checkpoints").iterdir() if p.name.isdigit()) == [0, 1, 4]
    for name in ("percent", "components", "gradients", "curvature", "densities"):
        assert matplotlib.image.imread(run / f"{name}.png").std() > 0.01
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and 'src="http' not in page
    assert "untrained" in page and "NCI" in page and "step 4" in page


@pytest.mark.slow  # the loop and run folders are tested in tests/training
def test_started_again_it_goes_on_and_with_another_config_it_refuses(finished):
    folder, arguments, _ = finished
    before = read_metrics(folder / "run" / "cube")
    again = start(*arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert read_metrics(folder / "run" / "cube") == before
    other = start(*arguments, "--config.seed=1")
    assert other.returncode != 0 and "seed: 0 in the folder, 1 asked for" in other.stderr


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--config.trainning.steps=3", "trainning"),
        ("--config.preset=huge", "cpu, gpu, smoke"),
        ("--config.model.preset=huge", "tiny, small, full"),
    ],
)
def test_mistyped_settings_are_refused(argument, words, tmp_path):
    result = start("--config.preset=smoke", argument, f"--workdir={tmp_path}")
    assert result.returncode != 0
    assert words in result.stderr.splitlines()[-1] or words in "".join(result.stderr.splitlines()[-4:])


def test_help_tells_what_it_does():
    result = start("--help")
    assert "--workdir" in result.stdout and "real compounds" in result.stdout


@pytest.mark.slow  # what it computes is tested in test_curvature_study
def test_the_instruments_read_its_checkpoints(finished):
    folder, _, _ = finished
    run = folder / "run"
    spectrum = [f"--workdir={run}", "--only=norm/*", "--half_width=2"]
    dense = start(*spectrum, module="spectrum")
    assert dense.returncode == 0, dense.stderr[-3000:]
    assert "condition number" in dense.stdout
    numbers = json.loads((run / "spectrum" / "cube-4.json").read_text())
    assert numbers["mean"]["n"] == 8 and numbers["equiv"]["largest"] > 0
    for name in ("cube-4-spectrum", "cube-4-plane", "subspace"):
        assert matplotlib.image.imread(run / "spectrum" / f"{name}.png").std() > 0.01
    small = ("--density", "--probes=1", "--lanczos_steps=3", "--arm=none", "--step=1")
    matrix_free = start(*spectrum, *small, module="spectrum")
    assert matrix_free.returncode == 0, matrix_free.stderr[-3000:]
    assert (run / "spectrum" / "none-1-density.png").exists()


@pytest.mark.parametrize(
    "argument, words",
    [("--step=3", "there are 0, 1, 4"), ("--arm=haar", "cube, none"), ("--only=hed/*", "nearest")],
)
def test_what_a_run_does_not_hold_is_said(argument, words, finished):
    folder, _, _ = finished
    result = start(f"--workdir={folder / 'run'}", argument, module="spectrum")
    assert result.returncode != 0 and words in result.stderr[-600:]


def test_a_folder_without_a_run_is_named(tmp_path):
    result = start(f"--workdir={tmp_path}", module="spectrum")
    assert result.returncode != 0 and "make the run first" in result.stderr
