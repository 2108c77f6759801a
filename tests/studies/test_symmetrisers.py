"""Alternatives to an equivariant network, of a denoiser whose numbers are known: a linear map of each position."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.studies import symmetrisers as study
from equiscale.studies.symmetriser_figures import symmetrisers_figure, symmetrisers_table
from equiscale.tasks.denoise_points import Points
from equiscale.tasks.task import Pair
from tests.commands import start
from tests.tasks.test_denoise_points import make

POINTS = study.points_of("denoise_points")
W = np.array([[1.0, 0.6, -0.4], [0.2, 0.5, 0.7], [-0.5, 0.3, 0.2]], np.float32)


@pytest.fixture(scope="module")
def task():
    """Five molecules of three to five atoms, in batches of two, the last of which is padded."""
    return make()._replace(predict=lambda w, x: x.positions @ w.T)


@pytest.fixture(scope="module")
def found(task):
    every = study.methods_for(task.symmetry, POINTS)
    names = (study.PLAIN, "Haar average, 12", "canonical pose")
    methods = {name: every[name] for name in names}
    return {"title": "five molecules", **study.measure(task, W, methods, POINTS, measure=es.so3.haar(3))}


def by_method(found):
    return {row["method"]: row for row in found["rows"]}


def molecules(task):
    """Noisy and clean positions of the atoms of each molecule, in float64."""
    pairs = list(map(jax.jit(task.pair), task.validation))
    rows = [(p.x.positions[i], p.y[i], np.asarray(p.mask[i])) for p in pairs for i in range(2) if p.weight[i]]
    return [(np.asarray(noisy, float)[real], np.asarray(clean, float)[real]) for noisy, clean, real in rows]


def test_losses_of_a_linear_map_are_those_of_closed_forms(task, found):
    """W x as it is, tr(W)/3 x averaged, and R^-1 W R x in the pose R; differences in pairs."""

    def posed(x):
        apart = x - x.mean(0)
        axes = np.linalg.eigh(apart.T @ apart)[1].T[::-1]
        axes[:2] *= np.sign(((apart @ axes.T) ** 3).sum(0))[:2, None]
        axes[2] = np.cross(*axes[:2])
        return x @ axes.T @ W.T @ axes

    maps = {"plain": lambda x: x @ W.T, "Haar average, 12": lambda x: np.trace(W) / 3 * x, "canonical pose": posed}
    rows, pairs = by_method(found), molecules(task)
    errors = {name: np.array([np.square(of(x) - y).mean() for x, y in pairs]) for name, of in maps.items()}
    assert found["n_examples"] == len(pairs) == 5 and rows["plain"]["difference"] == 0
    for name, expected in errors.items():
        np.testing.assert_allclose(rows[name]["loss"], expected.mean(), rtol=1e-4)
        np.testing.assert_allclose(rows[name]["loss_stderr"], expected.std(ddof=1) / 5**0.5, rtol=1e-3)
        apart = expected - errors["plain"]
        np.testing.assert_allclose(rows[name]["difference"], apart.mean(), rtol=1e-3)
        np.testing.assert_allclose(rows[name]["difference_stderr"], apart.std(ddof=1) / 5**0.5, rtol=1e-3, atol=1e-9)


def test_what_is_left_and_what_turning_does(found):
    """Nothing is left of what is exact, whose loss is the same when turned; the plain model's stays."""
    rows = by_method(found)
    for name in ("Haar average, 12", "canonical pose"):
        assert rows[name]["percent"] < 1e-6
        np.testing.assert_allclose(rows[name]["turned"], rows[name]["loss"], rtol=1e-4)
        assert rows[name]["turned"] < rows["plain"]["turned"]
    assert rows["plain"]["percent"] > 1


def test_an_average_is_as_steep_as_its_trace_and_a_pose_jumps(found):
    rows, paths = by_method(found), found["continuity"]
    np.testing.assert_allclose(paths["largest"]["Haar average, 12"], np.full(13, np.trace(W) / 3), rtol=0.02)
    assert max(paths["largest"]["plain"]) <= 1.02 * np.linalg.norm(W, 2)
    assert rows["canonical pose"]["jumps"] > 0 and rows["canonical pose"]["steepest"] > 100
    assert rows["plain"]["jumps"] == rows["Haar average, 12"]["jumps"] == 0


def test_the_figure_and_the_table_hold_every_method(found):
    figure, table = symmetrisers_figure(found), symmetrisers_table(found)
    cost, smooth = figure.axes
    assert len(cost.containers) == 2 and len(smooth.lines) == 2 * 3 + 1
    lines = table.splitlines()
    assert len(lines) == 2 + len(found["rows"]) and all(
        row["method"] in line for row, line in zip(found["rows"], lines[1:], strict=False)
    )


def test_passes_and_seconds_are_counted(task, found):
    methods = study.methods_for(task.symmetry, POINTS)
    assert {name: method.passes for name, method in methods.items()} == {
        "plain": 1, "Haar average, 4": 4, "Haar average, 12": 12, "Haar average, 24": 24, "Haar average, 60": 60,
        "frame average": 4, "canonical pose": 1,
    }  # fmt: skip
    calls = []

    def counting(params, x, key):
        calls.append(len(x.positions))
        return x.positions

    x = Points(np.zeros((2, 4, 3)), np.ones((2, 4), int))
    pair = Pair(x, x.positions, np.ones(2))
    seconds = study.median_seconds({"counted": counting}, W, pair, jax.random.key(0))
    assert calls == [2] * (study.TURNS + 1) and 0 < seconds["counted"] < 1
    assert all(row["milliseconds"] > 0 for row in found["rows"])


def test_only_heads_of_three_rows_have_an_exact_average():
    from equiscale.models.graph_transformer import PRESETS, GraphTransformer

    model = GraphTransformer(**PRESETS["cpu_0.02M"])
    assert study.head_average(model)["exact average"].passes == 1
    assert study.head_average(model.clone(forces="gradient")) == study.head_average(jnp) == {}


def test_grids_have_no_frames():
    with pytest.raises(ValueError, match=r"denoise_voxels, whose input is a voxel grid: .* cube's 24 rotations only"):
        study.points_of("denoise_voxels")


@pytest.mark.slow  # what it computes is tested above; by hand for each task
def test_the_command_leaves_numbers_and_a_figure(tmp_path):
    run = f"--workdir={tmp_path}"
    config = ("--config=configs/force_field.py", "--config.preset=smoke", "--config.training.steps=1")
    assert start(*config, run, module="train").returncode == 0
    result = start(run, "--molecules=3", "--measure=so3.haar(2)", module="symmetrise")
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads((tmp_path / "symmetrise.json").read_text())["rows"]
    assert [row["passes"] for row in rows] == [1, 4, 12, 24, 60, 4, 1, 1]
    exact, sixty = rows[-1], rows[4]
    assert exact["method"] == "exact average" and exact["loss"] == pytest.approx(sixty["loss"], rel=0.05)
    assert (tmp_path / "symmetrise.png").exists() and "Haar average, 60" in (tmp_path / "symmetrise.csv").read_text()
