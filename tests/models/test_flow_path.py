"""Flow matching: times and weights, exact optima, and targets that know how much a chain may be turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.models import flow_path as path
from equiscale.rotations import random_rotation

N = 6
COUNT = 2_000  # copies of a chain in each test: one shape, compiled once
turned_mean, lost_to_rotation = jax.jit(path.turned_mean), jax.jit(path.lost_to_rotation)


def chain(seed=0, n=N, size=0.7):
    x = size * jax.random.normal(jax.random.key(seed), (n, 3))
    return x - x.mean(0)


def noisy(t, seed=0):
    """Copies of one chain, each turned and made noisy on its own: clean as it lies, turned, and x_t."""
    x, count = chain(), COUNT
    keys = jax.random.split(jax.random.key(seed), 2)
    g = jax.vmap(random_rotation)(jax.random.split(keys[0], count))
    turned = jnp.einsum("bij,nj->bni", g, x)
    noise = jax.random.normal(keys[1], turned.shape)
    noise = noise - noise.mean(1, keepdims=True)
    times = jnp.full(count, t)
    return jnp.broadcast_to(x, turned.shape), turned, path.interpolate(noise, turned, times), noise, times


def test_times_and_weights_are_as_published():
    t = np.asarray(path.draw_times(jax.random.key(0), 200_000))
    for at, expected in ((0.3, 1 - 0.895), (0.692, 0.5), (0.9, 1 - 0.180), (0.99, 1 - 0.0187)):
        assert (t < at).mean() == pytest.approx(expected, abs=0.004)
    weights = path.weight(jnp.array([0.9, 0.95, 0.99, 0.995, 0.999]))
    np.testing.assert_allclose(weights, [0.9990, 0.9960, 0.9091, 0.714, 0.0909], atol=5e-4)


def test_velocities_and_ends_are_the_same_thing():
    _, turned, x, noise, t = noisy(0.4)
    velocity = path.to_velocity(turned, x, t)
    np.testing.assert_allclose(velocity, turned - noise, atol=1e-5)
    np.testing.assert_allclose(path.to_clean(velocity, x, t), turned, atol=1e-6)


def test_percents_are_the_same_of_velocities_and_of_ends():
    _, turned, x, noise, t = noisy(0.6)

    def velocity(x):
        return jnp.tanh(x) @ jnp.array([[1.0, 0.2, 0.0], [0.0, 0.7, 0.5], [0.3, 0.0, 1.0]])

    symmetry = es.Symmetry(es.so3.haar(6), act_in=es.vectors, act_out=es.vectors)
    settings = {"key": jax.random.key(0)}
    one = es.decompose(velocity, symmetry, x, turned - noise, **settings)
    two = es.decompose(lambda x: path.to_clean(velocity(x), x, t), symmetry, x, turned, **settings)
    assert float(one.percent) == pytest.approx(float(two.percent), rel=1e-4)
    assert float(two.total) == pytest.approx(float(one.total) * 0.4**2, rel=1e-4)


def test_at_no_time_minus_the_noise_is_the_best_velocity():
    """E[x_1] = 0 for a chain turned at random: the loss left is the chain's own variance, and rotation's alone."""
    clean, turned, x, noise, t = noisy(0.0)
    mask = jnp.ones(turned.shape[:2], bool)
    np.testing.assert_allclose(turned_mean(clean, x, t), 0, atol=1e-5)
    left = path.mean_square(-noise - (turned - noise), mask)
    np.testing.assert_allclose(lost_to_rotation(clean, x, t, mask), left, rtol=1e-4)


@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_no_model_does_better_than_the_mean_over_turns(t):
    """The velocity towards E[R x_1 | x_t] has on average just the loss that `lost_to_rotation` says of each chain, and
    its error is orthogonal to what else can be made of x_t."""
    clean, turned, x, noise, times = noisy(t)
    mask = jnp.ones(turned.shape[:2], bool)
    best = path.to_velocity(turned_mean(clean, x, times), x, times)
    loss = np.asarray(path.mean_square(best - (turned - noise), mask))
    said = np.asarray(lost_to_rotation(clean, x, times, mask))
    spread = (loss - said).std() / np.sqrt(len(loss))
    assert abs((loss - said).mean()) < 4 * spread and loss.mean() > 10 * spread
    for other in (x, jnp.sin(3 * x), jnp.roll(x, 1, axis=1)):
        products = np.asarray((other * (turned - noise - best)).sum((1, 2)))
        assert abs(products.mean()) < 4 * products.std() / np.sqrt(len(products))


def test_near_the_end_the_turn_is_known():
    clean, turned, x, _, t = noisy(0.99)
    np.testing.assert_allclose(turned_mean(clean, x, t), turned, atol=0.05)
    assert float(path.mean_square(turned_mean(clean, x, t) - turned, jnp.ones((COUNT, N), bool)).max()) < 1e-3


def test_of_gaussian_data_the_best_linear_velocity_has_the_known_loss():
    """Data N(0, s^2): E|v - a x|^2 is least at s^2 / (t^2 s^2 + (1 - t)^2) per coordinate."""
    s, t, count = 0.8, 0.7, 40_000
    data, noise = (jax.random.normal(jax.random.key(i), (count, 2, 3)) for i in (1, 2))
    times, mask = jnp.full(count, t), jnp.ones((count, 2), bool)
    x = path.interpolate(noise, s * data, times)
    slope = (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)
    loss = path.mean_square(slope * x - (s * data - noise), mask)
    assert float(loss.mean()) == pytest.approx(s**2 / (t**2 * s**2 + (1 - t) ** 2), rel=0.02)


def test_padding_counts_nowhere():
    clean, _, x, _, t = noisy(0.5)
    padded = [jnp.pad(a, ((0, 0), (0, 3), (0, 0))) for a in (clean, x)]
    mask = jnp.arange(N + 3) < N
    found = lost_to_rotation(*padded, t, jnp.broadcast_to(mask, (COUNT, N + 3)))
    np.testing.assert_allclose(found, lost_to_rotation(clean, x, t, jnp.ones((COUNT, N), bool)), rtol=1e-5)
