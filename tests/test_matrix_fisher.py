"""The matrix-Fisher distribution against integrals over all rotations, and its limits."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from equiscale.matrix_fisher import log_normaliser, mean_rotation, mean_values, proper_svd
from equiscale.rotations import random_rotation


def all_rotations(n=28):
    """Rotations and weights of sum 1 that integrate smooth functions on SO(3): Euler angles z y z."""
    turn = 2 * np.pi * np.arange(n) / n
    cosine, weight = np.polynomial.legendre.leggauss(n)
    a, b, c = np.meshgrid(turn, np.arccos(cosine), turn, indexing="ij")

    def about_z(t):
        zero, one = np.zeros_like(t), np.ones_like(t)
        return np.stack([np.cos(t), -np.sin(t), zero, np.sin(t), np.cos(t), zero, zero, zero, one], -1).reshape(
            -1, 3, 3
        )

    zero, one = np.zeros_like(b), np.ones_like(b)
    about_y = np.stack([np.cos(b), zero, np.sin(b), zero, one, zero, -np.sin(b), zero, np.cos(b)], -1)
    weights = np.broadcast_to(weight[None, :, None] / 2 / n**2, a.shape).ravel()
    return about_z(a) @ about_y.reshape(-1, 3, 3) @ about_z(c), weights


ROTATIONS, WEIGHTS = all_rotations()


@given(st.integers(0, 10_000), st.floats(0.01, 4.0))
def test_it_is_the_integral_over_all_rotations(seed, size):
    f = size * np.random.default_rng(seed).normal(size=(3, 3))
    density = WEIGHTS * np.exp(np.einsum("ij,rij->r", f, ROTATIONS))
    with jax.enable_x64(True):
        _, s, _ = proper_svd(jnp.asarray(f))
        assert float(log_normaliser(s)) == pytest.approx(np.log(density.sum()), abs=1e-8)
        expected = np.einsum("r,rij->ij", density / density.sum(), ROTATIONS)
        np.testing.assert_allclose(mean_rotation(jnp.asarray(f)), expected, atol=1e-8)
    np.testing.assert_allclose(mean_rotation(jnp.asarray(f, jnp.float32)), expected, atol=5e-6)


def test_large_and_no_evidence():
    """d_i -> 1 - 1/2 sum_{j != i} 1 / (s_i + s_j) for a sharp distribution; 0 where nothing is known."""
    np.testing.assert_allclose(mean_rotation(jnp.zeros((2, 3, 3))), 0, atol=1e-6)
    for s in ([3e3, 2e3, 1e3], [1e6, 900.0, 500.0], [2e5, 2e5, -100.0]):
        s = np.array(s)
        expected = [1 - sum(0.5 / (s[i] + s[j]) for j in range(3) if j != i) for i in range(3)]
        np.testing.assert_allclose(mean_values(jnp.asarray(s, jnp.float32)), expected, atol=3e-6)
        with jax.enable_x64(True):
            np.testing.assert_allclose(mean_values(jnp.asarray(s)), expected, atol=3e-6)


def test_on_a_line_the_turn_about_it_stays_unknown():
    """Rank 1: d = (coth s - 1 / s, 0, 0), the Langevin function of a direction on the sphere."""
    for s in (0.5, 5.0, 5e3):
        found = mean_rotation(jnp.diag(jnp.array([s, 0.0, 0.0])))
        np.testing.assert_allclose(found, np.diag([1 / np.tanh(s) - 1 / s, 0, 0]), atol=2e-6)


def test_it_turns_with_what_it_is_given():
    f = 3 * jax.random.normal(jax.random.key(0), (4, 3, 3))
    a, b = (random_rotation(jax.random.key(i)) for i in (1, 2))
    np.testing.assert_allclose(mean_rotation(a @ f @ b.T), a @ mean_rotation(f) @ b.T, atol=5e-6)
