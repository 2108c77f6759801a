"""What rotation hides of a structure: against sums in float64, and as the best that can be made of what is seen."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import equiscale as es
from equiscale.rotation_posterior import Listed, lost_to_rotation, prior_of, turned_mean
from equiscale.rotations import random_rotation

CUBE = prior_of(es.octahedral.enumerate())
MEASURES = {"cube": es.octahedral.enumerate(), "with reflections": es.full_octahedral.enumerate(), "16": es.paper16()}
DRAWS = {
    "all": (None, random_rotation),
    "cube": (CUBE, lambda key: jax.random.choice(key, jnp.asarray(CUBE.rotations, jnp.float32))),
}


@given(st.integers(0, 10_000), st.floats(0.05, 30.0), st.sampled_from(list(MEASURES)))
def test_of_a_list_it_is_the_sum_over_it(seed, gain, name):
    """Bayes by hand: the densities of y around every turned structure, and the variance among these."""
    rng = np.random.default_rng(seed)
    clean, seen = rng.normal(size=(2, 5, 3))
    prior = prior_of(MEASURES[name])
    turned = np.einsum("rij,nj->rni", prior.rotations, clean)
    density = prior.weights * np.exp(-0.5 * gain * np.square(seen - turned).sum((1, 2)))  # t = 1, gain = 1 / s^2
    p = density / density.sum()
    mean = np.einsum("r,rni->ni", p, turned)
    lost = p @ np.square(turned - mean).sum((1, 2))
    with jax.enable_x64(True):
        arguments = jnp.asarray(clean), jnp.asarray(seen), gain, prior
        np.testing.assert_allclose(turned_mean(*arguments), mean, atol=1e-9)
        assert float(lost_to_rotation(*arguments)) == pytest.approx(lost, rel=1e-6, abs=1e-12)


def test_many_rotations_hide_what_all_of_them_do():
    """Nodes that integrate smooth functions over SO(3), as a list, agree with the matrix-Fisher distribution."""
    nodes, weights = es.so3.nodes(14)
    rng = np.random.default_rng(0)
    clean, seen = rng.normal(size=(2, 4, 4, 3))
    with jax.enable_x64(True):
        for what in (turned_mean, lost_to_rotation):
            of_list = what(jnp.asarray(clean), jnp.asarray(seen), 0.3, Listed(nodes, weights))
            np.testing.assert_allclose(of_list, what(jnp.asarray(clean), jnp.asarray(seen), 0.3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "measure, n",
    [
        (es.so3.haar(3), None),
        (es.so3.coset(24), None),
        (es.so3.quadrature(2), None),
        (es.octahedral.haar(3), 24),
        (es.full_octahedral.enumerate(), 48),
        (es.paper16(), 16),
    ],
)
def test_what_examples_are_turned_by_is_what_the_measure_averages_over(measure, n):
    prior = prior_of(measure)
    assert (None if prior is None else len(prior.rotations)) == n
    if prior is not None:
        assert prior.weights.sum() == pytest.approx(1) and prior.rotations.shape == (n, 3, 3)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("sigma", [0.3, 0.8])
def test_no_estimate_is_better_on_average(name, sigma):
    """Its error is orthogonal to every function of y = t R x + s e, and on average what is said to be lost."""
    (prior, draw), t, n = DRAWS[name], 0.6, 20_000
    x = jnp.array([[0.7, 0.1, 0.0], [-0.2, 0.5, 0.3], [0.0, -0.6, 0.4]])
    keys = jax.random.split(jax.random.key(0), 2)
    turned = jnp.einsum("nij,aj->nai", jax.vmap(draw)(jax.random.split(keys[0], n)), x)
    y = t * turned + sigma * jax.random.normal(keys[1], turned.shape)
    clean, gain = jnp.broadcast_to(x, y.shape), t / sigma**2
    guess = turned_mean(clean, y, gain, prior)
    for function in (guess, y, jnp.sign(y)):
        products = np.asarray(((turned - guess) * function).sum((1, 2)))
        assert abs(products.mean()) < 4 * products.std() / np.sqrt(n)
    left = np.asarray(jnp.square(turned - guess).sum((1, 2)))
    difference = left - np.asarray(lost_to_rotation(clean, y, gain, prior))
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n) and left.mean() > 0.01 * float((x**2).sum())


def test_little_noise_hides_in_the_directions_of_turns():
    """r s^2: three for a shape, two for atoms on a line, none for an atom at the centre; float32 to the last digits."""
    shape = np.random.default_rng(1).normal(size=(3, 3))
    structures = np.stack([shape - shape.mean(0), [[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]], np.zeros((3, 3))])
    for sigma in (1e-2, 1e-3):
        both = (jnp.asarray(structures, jnp.float32),) * 2
        found = lost_to_rotation(*both, 1 / sigma**2)
        np.testing.assert_allclose(found, np.array([3, 2, 0]) * sigma**2, rtol=2e-3)
        assert float(lost_to_rotation(*both, 1 / sigma**2, CUBE)[0]) < 1e-9, "of finitely many turns nothing is hidden"
    with jax.enable_x64(True):
        clean = jnp.asarray(structures)
        mean = turned_mean(clean, 0.3 * clean, 4.0)
        expected = jnp.square(clean).sum((1, 2)) - jnp.square(mean).sum((1, 2))
        np.testing.assert_allclose(lost_to_rotation(clean, 0.3 * clean, 4.0), expected, atol=1e-12)
