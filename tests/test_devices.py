"""The same numbers to float32 rounding under a plain call, jit, sharded jit, shard_map, pmap and two processes."""

import functools
import json
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import equiscale as es

KEY = jax.random.key(11)
MEASURES = {
    str(m): m
    for m in (es.so3.haar(8), es.so3.coset(12), es.so3.coset(12, n=2), es.octahedral.enumerate(), es.so3.haar(5))
}
NORM = es.Loss(lambda z, y: jnp.linalg.norm(z - y, axis=-1).mean(-1), "distance", "vectors")


def case():
    """x, y, weights (the last two examples are padding) and an atom mask: 16 examples of 5 atoms."""
    x = jax.random.normal(jax.random.key(0), (16, 5, 3))
    y = jax.random.normal(jax.random.key(1), (16, 5, 3))
    weight = jnp.ones(16).at[-2:].set(0).at[3].set(2.5)
    mask = jnp.arange(5) < jnp.arange(16)[:, None] % 3 + 3
    return x, y, weight, mask


def decomposition(name, key, x, y, weight, mask, loss=None, **axes):
    """A model with parameters and a residual, on a masked and weighted batch."""
    w = jnp.array([[1.0, 0.8, 0.0], [0.0, 1.2, 0.3], [0.4, 0.0, 0.9]])
    sym = es.Symmetry(MEASURES[name], es.vectors, es.vectors)
    if loss is None:
        axes["mask"] = mask
    return es.decompose(lambda x: jnp.tanh(x @ w) + 0.1 * x, sym, x, y, key=key, weight=weight, loss=loss, **axes)


def sharded_call(name, mesh, loss=None):
    """Examples over the mesh axis "data", elements over "element"."""
    run = functools.partial(decomposition, name, loss=loss, axis_name="data", element_axis="element")
    specs = (P(), *[P("data")] * 4)
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P()))


def mesh_of(data, element):
    return jax.make_mesh((data, element), ("data", "element"), axis_types=(AxisType.Auto,) * 2)


@functools.cache
def expected(name, loss=None):
    return decomposition(name, KEY, *case(), loss=loss).record()


def assert_equal(got, name, loss=None):
    rounding = 5e-6 if loss is None else 1e-4  # there equiv is a difference of totals, and the jackknife's of those
    for field, value in expected(name, loss).items():
        if isinstance(value, float) and field not in ("identity_error", "floor"):
            np.testing.assert_allclose(got[field], value, rtol=rounding, atol=1e-9, err_msg=f"{name}: {field}")
        elif not isinstance(value, float):
            assert got[field] == value


@pytest.mark.parametrize("name", MEASURES)
def test_jit_and_jit_on_sharded_arrays(name):
    run = jax.jit(functools.partial(decomposition, name))
    assert_equal(run(KEY, *case()).record(), name)
    spread = jax.device_put(case(), NamedSharding(mesh_of(8, 1), P("data")))
    d = run(KEY, *spread)
    assert_equal(d.record(), name)


@pytest.mark.parametrize("shape", [(8, 1), (1, 8), (2, 4)], ids=lambda s: f"{s[0]} data x {s[1]} element")
@pytest.mark.parametrize("name", MEASURES)
def test_shard_map_over_examples_elements_and_both(name, shape):
    assert_equal(sharded_call(name, mesh_of(*shape))(KEY, *case()).record(), name)


@pytest.mark.parametrize("name", ["so3.haar(8)", "so3.coset(12, n=2)"])
def test_other_losses_spread_too(name):
    assert_equal(sharded_call(name, mesh_of(2, 4), NORM)(KEY, *case()).record(), name, NORM)


@pytest.mark.parametrize("name", ["so3.haar(8)", "so3.coset(12)", "octahedral.enumerate()"])
def test_pmap(name):
    run = jax.pmap(
        functools.partial(decomposition, name, axis_name="data"), axis_name="data", in_axes=(None, 0, 0, 0, 0)
    )
    split = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), case())
    d = run(KEY, *split)
    for device in (0, 7):
        assert_equal(jax.tree.map(lambda a, device=device: a[device], d).record(), name)

    copies = jnp.broadcast_to(KEY, (8,))
    elements = jax.pmap(
        functools.partial(decomposition, name, element_axis="element"),
        axis_name="element",
        in_axes=(0, None, None, None, None),
    )
    assert_equal(jax.tree.map(lambda a: a[3], elements(copies, *case())).record(), name)


@pytest.mark.parametrize("name", MEASURES)
def test_twirl_spreads_the_same_way(name):
    sym = es.Symmetry(MEASURES[name], es.vectors, es.vectors)
    x = case()[0]

    def run(**axes):
        return es.twirl(lambda x: jnp.tanh(x) + x[..., :1] ** 2, sym, **axes)

    mapped = jax.jit(
        jax.shard_map(
            lambda key, x: run(axis_name="data", element_axis="element")(key, x),
            mesh=mesh_of(2, 4),
            in_specs=(P(), P("data")),
            out_specs=P("data"),
        )
    )
    np.testing.assert_allclose(mapped(KEY, x), run()(KEY, x), atol=3e-6)


@pytest.mark.slow  # two processes train in tests/training/test_parallel
def test_two_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    root = pathlib.Path(__file__).parents[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_processes", str(port), str(rank)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=300) for worker in workers]
    for worker, (out, err) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, err[-3000:]
        printed = json.loads(out.strip().splitlines()[-1])
        results = printed["decomposition"]
        assert len(results) == 6
        for label, numbers in results.items():
            name = label.rsplit(" ", 1)[0]
            wanted = expected(name)
            for field, value in numbers.items():
                if field not in ("identity_error", "floor"):
                    np.testing.assert_allclose(value, wanted[field], rtol=5e-6, atol=1e-9, err_msg=f"{label}: {field}")
        from tests import test_instrument_devices as instruments

        instruments.assert_equal(tuple(printed["gradients"]), "so3.coset(12, n=2)")
        for name, values in printed["curvature"].items():
            np.testing.assert_allclose(values, instruments.expected_curvature()[name], rtol=1e-9, atol=1e-12)
