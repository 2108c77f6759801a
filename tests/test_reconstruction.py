"""Eq. 4, element by element: its identity, its relation to the equivariance loss, and a NumPy reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equiscale as es
from equiscale.reconstruction import reconstruction

SYMMETRY = es.Symmetry(es.octahedral.enumerate(), es.vectors, es.vectors)


def data(seed, n=6, atoms=3):
    x, y, w = (jax.random.normal(k, s) for k, s in zip(
        jax.random.split(jax.random.key(seed), 3), [(n, atoms, 3), (n, atoms, 3), (3, 3)], strict=True))  # fmt: skip
    return x, y, lambda x: jnp.tanh(x @ w) + x**2


def by_hand(f, x, y):
    """float64 NumPy, one element at a time."""
    turns = np.asarray(SYMMETRY.measure.draw(None), np.float64).reshape(-1, 3, 3)
    plain = np.asarray(f(x), np.float64)
    for g in turns:
        z = np.asarray(f(jnp.asarray(np.asarray(x) @ g.T)), np.float64) @ g
        yield np.square(z - plain).mean(), np.square(z - np.asarray(y)).mean(), 2 * np.mean((plain - y) * (z - plain))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_against_numpy_and_the_identity(seed):
    x, y, f = data(seed)
    found = reconstruction(f, SYMMETRY, x, y)
    equivariance, turned, cross = map(np.array, zip(*by_hand(f, x, y), strict=True))
    np.testing.assert_allclose(found.equivariance[0], equivariance, atol=2e-6)
    np.testing.assert_allclose(found.reconstruction[0], turned, rtol=1e-5)
    np.testing.assert_allclose(found.bound + found.equivariance[0] + cross, found.reconstruction[0], rtol=1e-5)
    np.testing.assert_allclose(found.share[0], equivariance / np.square(f(x) - y).mean(), atol=1e-5)


def test_over_the_orbit_it_is_twice_the_equivariance_loss():
    x, y, f = data(0)
    turns = jnp.asarray(SYMMETRY.measure.draw(None)).reshape(-1, 3, 3)
    orbit, targets = (jnp.concatenate([jnp.einsum("ij,naj->nai", g, a) for g in turns]) for a in (x, y))
    d = es.decompose(f, SYMMETRY, x, y, key=jax.random.key(0))
    found = reconstruction(f, SYMMETRY, orbit, targets)
    np.testing.assert_allclose(found.equivariance[0].mean(), 2 * d.equiv, rtol=1e-5)
    np.testing.assert_allclose(found.bound, d.total, rtol=1e-5)


def test_an_equivariant_model_has_none_and_keeps_its_bound():
    x, y, _ = data(1)
    found = reconstruction(lambda x: x * jnp.square(x).sum(-1, keepdims=True), SYMMETRY, x, y)
    assert found.equivariance[0].max() < 1e-10
    np.testing.assert_allclose(found.reconstruction[0], found.bound, rtol=1e-5)


def test_batches_merge_and_padding_does_not_count():
    x, y, f = data(2)
    whole = reconstruction(f, SYMMETRY, x, y)
    padded = [jnp.concatenate([a[4:], 9 + a[:1]]) for a in (x, y)]
    tail = reconstruction(f, SYMMETRY, *padded, weight=jnp.array([1.0, 1.0, 0.0]))
    merged = reconstruction(f, SYMMETRY, x[:4], y[:4]) + tail
    for a, b in zip(merged.share + merged.reconstruction, whole.share + whole.reconstruction, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    assert merged.record()["n_examples"] == 6


def test_one_trace_and_drawn_measures_are_refused():
    x, y, f = data(3)
    traces = []
    jax.jit(lambda x: reconstruction(lambda x: traces.append(1) or f(x), SYMMETRY, x, y).bound)(x)
    assert len(traces) == 2, "the plain prediction and the turned ones"
    drawn = es.Symmetry(es.so3.haar(3), es.vectors, es.vectors)
    with pytest.raises(ValueError, match=r"so3\.haar\(3\) draws other elements"):
        reconstruction(f, drawn, x, y)
