"""Sampling by a flow of a known distribution, for which the exact velocity is known, and what its symmetries make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.models.flow_transformer import Chain
from equiscale.rotations import random_rotation
from equiscale.sampling.flow import Sampling, sample, start, times_of

S = 0.6  # deviation of the Gaussian data in nm, less their mean as the noise is


def gaussian(chain: Chain):
    """The exact velocity for data S times noise: x times the slope of the best linear prediction."""
    t = chain.time[:, None, None]
    return chain.positions * (t * S**2 - (1 - t)) / (t**2 * S**2 + (1 - t) ** 2)


def run(velocity, n, sampling, residues=4, key=0, turns=None):
    ids, index = jnp.arange(n), jnp.broadcast_to(jnp.arange(1, residues + 1), (n, residues))
    at = start(jax.random.key(key), ids, index, jnp.zeros((n, residues), bool))
    if turns is not None:
        at = at._replace(positions=jnp.einsum("nij,naj->nai", turns, at.positions))
    return jax.jit(lambda c: sample(velocity, c, jax.random.key(key), ids, sampling, turns=turns))(at), at


def test_times_are_the_published_ones():
    t = times_of(Sampling())
    assert len(t) == 401 and t[0] == 0 and t[-1] == pytest.approx(1)
    np.testing.assert_allclose(t[[1, 100, 200, 300]], [0.01156, 0.691, 0.909, 0.978], atol=5e-4)
    assert 1 - t[-2] == pytest.approx(1.17e-4, rel=0.01) and (t > 0.99).sum() - 1 == 59
    np.testing.assert_allclose(times_of(Sampling(4, "uniform")), [0, 0.25, 0.5, 0.75, 1])


def test_the_ode_scales_each_start_by_the_data_s_deviation():
    """Of Gaussian data the flow maps x_0 to S x_0."""
    found, at = run(gaussian, 8, Sampling(400, noise_scale=None))
    np.testing.assert_allclose(found, S * at.positions, atol=0.01)


@pytest.mark.parametrize("noise_scale, narrower", [(1.0, False), (0.3, True)])
def test_the_sde_keeps_the_distribution_at_scale_one_and_narrows_it_below(noise_scale, narrower):
    found, _ = run(gaussian, 4_000, Sampling(200, noise_scale=noise_scale))
    deviation = float(jnp.sqrt(jnp.square(found).mean() * 4 / 3))  # the mean over 4 residues is taken off
    assert (deviation < 0.9 * S) if narrower else deviation == pytest.approx(S, rel=0.04)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-5)


@pytest.mark.parametrize("noise_scale", [None, 0.4])
def test_an_equivariant_model_turns_its_samples_with_the_noise(noise_scale):
    def velocity(chain):  # equivariant and not linear, and it looks at the guess
        apart = jnp.square(chain.positions).sum(-1, keepdims=True)
        return -chain.positions / (1 + apart) + 0.3 * chain.guess

    sampling = Sampling(30, noise_scale=noise_scale, self_conditioning=True)
    turns = jax.vmap(random_rotation)(jax.random.split(jax.random.key(9), 3))
    plain, _ = run(velocity, 3, sampling)
    found, _ = run(velocity, 3, sampling, turns=turns)
    np.testing.assert_allclose(found, jnp.einsum("nij,naj->nai", turns, plain), atol=1e-4)


def test_a_chain_is_the_same_in_any_batch_and_however_padded():
    sampling, key = Sampling(20), jax.random.key(0)
    index = jnp.array([[1, 2, 3, 0], [1, 2, 3, 4]])
    whole = sample(gaussian, start(key, jnp.arange(2), index, index < 0), key, jnp.arange(2), sampling)
    one = sample(gaussian, start(key, jnp.array([0]), index[:1, :3], index[:1, :3] < 0), key, jnp.array([0]), sampling)
    np.testing.assert_allclose(whole[0, :3], one[0], atol=1e-5)
    assert not np.asarray(whole[0, 3]).any()


def test_a_guide_has_the_last_word():
    target = jnp.array([[0.5, 0, 0], [-0.5, 0, 0]])
    ids, index = jnp.arange(2), jnp.ones((2, 2), int) * jnp.arange(1, 3)
    at = start(jax.random.key(0), ids, index, index < 0)
    settings = Sampling(50, noise_scale=None)
    found = sample(gaussian, at, jax.random.key(0), ids, settings, guide=lambda clean, chain: target + 0 * clean)
    np.testing.assert_allclose(found, jnp.broadcast_to(target, found.shape), atol=1e-4)


def test_settings_out_of_range_are_refused():
    for wrong in (Sampling(0), Sampling(grid="edm"), Sampling(noise_scale=-1.0)):
        with pytest.raises(ValueError, match="give at least one step, a grid of log, uniform"):
            times_of(wrong)
