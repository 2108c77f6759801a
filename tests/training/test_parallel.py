"""One device, eight, parameters spread over them, or batches in parts: the same training to rounding."""

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from equiscale.training import loop
from equiscale.training.devices import evaluation_mesh, state_shardings
from equiscale.training.instruments import make_instruments
from equiscale.training.run_folder import read_examples, read_metrics
from tests.training.test_loop import SETTINGS, toy_task

BASE = SETTINGS._replace(batch_size=8, ema_decay=0.9, clip=50.0)
CASES = {
    "8 devices": (8, BASE),
    "8 devices, parameters spread": (8, BASE._replace(fsdp=True)),
    "8 devices in 2 parts": (8, BASE._replace(accumulate=2)),
    "8 devices, streamed": (8, BASE),
}


def wide_task(train="arrays"):
    """Large enough for its parameters to be spread: two layers of width 2,048, their mean over the batch as loss."""
    task = toy_task(train=train)

    def predict(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"] / 40

    def init(key):
        a, b = jax.random.split(key)
        return {"a": jax.random.normal(a, (3, 8192)), "b": jax.random.normal(b, (8192, 3))}

    def loss(params, batch, key):
        return jnp.square(predict(params, batch) - batch).sum((1, 2)).mean()

    return task._replace(init=init, loss=loss, predict=predict)


def mesh_of(n):
    return jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    task, mesh = wide_task(), mesh_of(1)
    instruments = make_instruments(("gradients",), task, mesh, examples=4)
    state = loop.train(task, BASE, folder, title="alone", mesh=mesh, instruments=instruments)
    return jax.device_get(state), read_metrics(folder), read_examples(folder, BASE.steps)


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers(name, alone, tmp_path):
    n, settings = CASES[name]
    task, mesh = wide_task("stream" if "streamed" in name else "arrays"), mesh_of(n)
    instruments = make_instruments(("gradients",), task, mesh, examples=4)
    state = loop.train(task, settings, tmp_path, title=name, mesh=mesh, instruments=instruments)
    spread = not state.params["a"].sharding.is_fully_replicated
    assert spread == settings.fsdp
    wanted, rows, examples = alone
    for part in ("params", "ema"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), getattr(state, part), getattr(wanted, part)
        )
    for got, row in zip(read_metrics(tmp_path), rows, strict=True):
        for key in ("total", "percent", "percent_stderr", "n_examples"):
            np.testing.assert_allclose(got[key], row[key], rtol=2e-3)
        np.testing.assert_allclose(got["gradients"]["gradient_purity"], row["gradients"]["gradient_purity"], rtol=2e-2)
    for name, found in read_examples(tmp_path, BASE.steps).items():
        np.testing.assert_allclose(found, examples[name], rtol=2e-2, atol=1e-12)


def test_a_run_goes_on_with_another_number_of_devices(alone, tmp_path):
    half = BASE._replace(fsdp=True, save_every=5, evaluations=2)
    loop.train(wide_task(), half._replace(steps=5), tmp_path, title="8", mesh=mesh_of(8))
    state = loop.train(wide_task(), half, tmp_path, title="1", mesh=mesh_of(1))
    assert int(state.step) == 12
    np.testing.assert_allclose(state.params["a"], alone[0].params["a"], atol=2e-4)


def test_layouts():
    mesh = mesh_of(8)
    leaf = jax.ShapeDtypeStruct((100, 4096), jnp.float32)
    small, odd = jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((8191, 3), jnp.float32)
    assert state_shardings(leaf, mesh, fsdp=True).shard_shape(leaf.shape) == (100, 512)
    assert state_shardings(leaf, mesh, fsdp=False).is_fully_replicated
    assert state_shardings(small, mesh, fsdp=True).is_fully_replicated
    assert state_shardings(odd, mesh, fsdp=True).is_fully_replicated
    assert dict(evaluation_mesh(mesh, 6).shape) == {"data": 2, "element": 4}
    assert dict(evaluation_mesh(mesh, 16).shape) == {"data": 8, "element": 1}


def test_a_batch_that_does_not_divide_is_named(tmp_path):
    with pytest.raises(ValueError, match="batch of 8 does not divide into accumulate=3"):
        loop.train(toy_task(), BASE._replace(accumulate=3), tmp_path, title="toy")


def test_two_processes_train_together_and_go_on(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.training.two_process_run", str(port)]
    root = pathlib.Path(__file__).parents[2]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=root, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    for worker, error in zip(workers, errors, strict=True):
        assert worker.returncode == 0, error[-3000:]
    with np.load(tmp_path / "end.npz") as found:
        np.testing.assert_allclose(found["a"], alone[0].params["a"], atol=2e-4)
    rows = {row["step"]: row for row in read_metrics(tmp_path)}
    for row in alone[1]:
        if row["step"] in (0, 1, 12):  # the halves have other log-spaced steps in between
            np.testing.assert_allclose(rows[row["step"]]["percent"], row["percent"], rtol=2e-3)
