"""Gradients, Hessian products and Lanczos are the same numbers on one device, on 8, and in two processes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import equiscale as es
from equiscale import curvature
from equiscale.components import components
from equiscale.gradients import gradients
from tests.test_devices import KEY, MEASURES, case, mesh_of

PARAMS = {"w": jnp.array([[1.0, 0.8, 0.0], [0.0, 1.2, 0.3], [0.4, 0.0, 0.9]]), "b": jnp.array([0.1, -0.2, 0.3])}


def apply(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) + 0.1 * x


def gradient(name, key, x, y, weight, mask, params=PARAMS, **axes):
    sym = es.Symmetry(MEASURES[name], es.vectors, es.vectors)
    found = gradients(apply, params, sym, x, y, key=key, weight=weight, mask=mask, **axes)
    return found.mean, found.equiv, found.losses


@functools.cache
def expected(name):
    return jax.jit(functools.partial(gradient, name))(KEY, *case())


def assert_equal(got, name):
    jax.tree.map(lambda b, a: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), expected(name), got)


@pytest.mark.parametrize("name", ["so3.haar(8)", "so3.coset(12, n=2)"])
def test_gradients_on_sharded_arrays_and_under_shard_map(name):
    mesh = mesh_of(2, 4)
    spread = jax.device_put(case(), NamedSharding(mesh, P("data")))
    assert_equal(jax.jit(functools.partial(gradient, name))(KEY, *spread), name)
    mapped = jax.shard_map(
        functools.partial(gradient, name, axis_name="data", element_axis="element"),
        mesh=mesh,
        in_specs=(P(), *[P("data")] * 4),
        out_specs=P(),
    )
    assert_equal(jax.jit(mapped)(KEY, *case()), name)


def test_gradients_under_pmap():
    name = "so3.coset(12, n=2)"
    run = functools.partial(gradient, name, axis_name="data")
    split = jax.tree.map(lambda a: a.reshape(8, 2, *a.shape[1:]), case())
    found = jax.pmap(run, axis_name="data", in_axes=(None, 0, 0, 0, 0))(KEY, *split)
    for device in (0, 7):
        assert_equal(jax.tree.map(lambda a, device=device: a[device], found), name)


def curvature_numbers(x, y, weight, mask):
    """Hessian products, a gradient and extreme eigenvalues of one batch, as plain numbers."""
    sym = es.Symmetry(es.so3.haar(8), es.vectors, es.vectors)
    c = components(apply, PARAMS, sym, x, y, key=KEY, weight=weight, mask=mask)
    products = c.products(c.vector, np.eye(c.n)[:2])
    numbers = {f"{part} product": values.ravel().tolist() for part, values in products.items()}
    numbers["gradient"] = c.gradients(c.vector)["equiv"].tolist()
    for part in ("total", "equiv"):
        ends = curvature.extremes(c, part, key=KEY, n_steps=12)
        numbers[f"{part} extremes"] = [ends.largest, ends.lowest]
    return numbers


@functools.cache
def expected_curvature():
    return curvature_numbers(*case())


def test_curvature_on_sharded_arrays():
    spread = jax.device_put(case(), NamedSharding(mesh_of(8, 1), P("data")))
    for name, values in curvature_numbers(*spread).items():
        np.testing.assert_allclose(values, expected_curvature()[name], rtol=1e-9, atol=1e-12, err_msg=name)
