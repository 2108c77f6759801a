import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import equiscale as es
from equiscale.rotations import cube
from equiscale.sampling import walk_jump as W

KEY = jax.random.key(7)
PUBLISHED = W.Walk(0.9)
OTHERS = [W.Walk(0.9, delta=1.2, friction=0.3, lipschitz=0.6), W.in_units_of(0.1)]


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def walked(denoise, state, n_steps, key, settings, draw=W.normal):
    return W.walk(denoise, state, n_steps, key, settings, draw)


def shrink(y):
    """A denoiser that acts on each number by itself and is no linear map."""
    return 0.3 * jnp.tanh(2 * y) + 0.2


@functools.partial(jax.jit, static_argnums=(2, 3))
def started(key, chains, shape, settings):
    return W.start(key, chains, shape, settings)


def bits(state):
    return [np.asarray(a) for a in jax.tree.leaves(state)]


def assert_same(a, b):
    for x, y in zip(bits(a), bits(b), strict=True):
        np.testing.assert_array_equal(x, y)


def in_numpy(denoise, state, n_steps, settings):
    """The walk written out in float64, with the noise as it was drawn."""
    s, delta, gamma, u = settings.sigma, settings.delta, settings.friction, 1 / settings.lipschitz
    y, v = np.asarray(state.y, float), np.asarray(state.v, float)
    zeta1, zeta2 = math.exp(-gamma), math.exp(-2 * gamma)
    for i in range(n_steps):
        step_key = jax.random.fold_in(KEY, int(state.step) + i + 1)
        xi = [jax.random.normal(jax.random.fold_in(step_key, c), y.shape[1:]) for c in state.chain]
        y = y + delta / 2 * v
        psi = (denoise(y) - y) / s**2
        v = v + u * delta / 2 * psi
        v = zeta1 * v + u * delta / 2 * psi + math.sqrt(u * (1 - zeta2)) * np.asarray(xi, float)
        y = y + delta / 2 * v
    return y, v


@pytest.mark.parametrize("settings", [PUBLISHED, *OTHERS])
def test_each_step_is_the_published_one(settings):
    start = started(KEY, jnp.array([3, 11]), (2, 4), settings)
    for n_steps in (1, 2, 12):
        end = walked(shrink, start, n_steps, KEY, settings)
        y, v = in_numpy(lambda y: 0.3 * np.tanh(2 * y) + 0.2, start, n_steps, settings)
        np.testing.assert_allclose(end.y, y, rtol=0, atol=2e-5 * np.abs(y).max())
        np.testing.assert_allclose(end.v, v, rtol=0, atol=2e-5 * np.abs(v).max())
        assert end.step == n_steps


def stationary(settings, tau):
    """Covariance of (y, v) in float64 that a step leaves as it is, for data N(0, tau^2): S = M S M^T + B B^T.

    Each half step of A-B-O-B-A is a matrix of its own here; u psi = -u y / (tau^2 + sigma^2).
    """
    u, zeta = 1 / settings.lipschitz, math.exp(-settings.friction)
    drift = np.array([[1, settings.delta / 2], [0, 1]])
    kick = np.array([[1, 0], [-u * settings.delta / 2 / (tau**2 + settings.sigma**2), 1]])
    damp = np.diag([1, zeta])
    noise = drift @ [[0], [math.sqrt(u * (1 - zeta**2))]]
    # The second half kick comes after the damping and takes the score from before it, which y has not changed since.
    step = drift @ kick @ damp @ kick @ drift
    return scipy.linalg.solve_discrete_lyapunov(step, noise @ noise.T)


@pytest.mark.parametrize("settings", [PUBLISHED, *OTHERS])
def test_a_gaussian_keeps_the_covariance_of_the_linear_recursion(settings):
    tau, mean = 0.4 * settings.sigma, 0.25
    exact = stationary(settings, tau)

    def denoise(y):
        return mean + tau**2 / (tau**2 + settings.sigma**2) * (y - mean)

    state = W.start_from(KEY, jnp.arange(1_000), jnp.full((1_000, 200), mean), settings)
    state = walked(denoise, state, 40, KEY, settings)
    covariances, means = [], []
    for _ in range(10):
        state = walked(denoise, state, 6, KEY, settings)
        both = np.stack([np.asarray(state.y, float).ravel() - mean, np.asarray(state.v, float).ravel()])
        covariances.append(both @ both.T / both.shape[1])
        means.append(both[0].mean())
    scale = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(np.mean(covariances, axis=0) / np.outer(scale, scale),
                               exact / np.outer(scale, scale), atol=0.005)  # fmt: skip
    assert abs(np.mean(means)) < 0.01 * scale[0]


def test_a_gaussian_has_the_noisy_density_itself_whatever_the_step():
    for settings in (PUBLISHED, *OTHERS, PUBLISHED._replace(delta=0.01, friction=0.02)):
        tau, u = 0.5 * settings.sigma, 1 / settings.lipschitz
        total = tau**2 + settings.sigma**2
        variance_of_v = u / (1 - u * settings.delta**2 / total / 4)
        np.testing.assert_allclose(stationary(settings, tau), np.diag([total, variance_of_v]), atol=1e-10)


def test_a_mixture_of_two_keeps_its_weights():
    weight, centre, tau, sigma = 0.3, 0.9, 0.3, 0.9
    total = tau**2 + sigma**2

    def second(y):  # how likely the component at -centre is, of which there is `weight`
        return jax.nn.sigmoid(jnp.log(weight / (1 - weight)) - 2 * centre * y / total)

    def denoise(y):
        m = centre * (1 - 2 * second(y))
        return m + tau**2 / total * (y - m)

    state = walked(denoise, started(KEY, jnp.arange(2_000), (4,), PUBLISHED), 150, KEY, PUBLISHED)
    assert float(second(state.y).mean()) == pytest.approx(weight, abs=0.02)
    jumped = W.jump(denoise, state)
    assert float(jumped.mean()) == pytest.approx(centre * (1 - 2 * weight), abs=0.04)
    np.testing.assert_array_equal(jumped, denoise(state.y))


def test_it_starts_as_published():
    settings = W.Walk(0.6)
    state = started(KEY, jnp.arange(50), (20, 100), settings)
    y = np.asarray(state.y, float)
    assert y.mean() == pytest.approx(0.5, abs=0.01) and y.var() == pytest.approx(0.36 + 1 / 12, rel=0.02)
    assert not state.v.any() and state.step == 0
    again = W.start_from(KEY, jnp.arange(50), jnp.ones((50, 20, 100)), settings)
    lift = np.asarray(state.y - again.y + 1)
    assert -1e-6 < lift.min() < 0.001 and 0.999 < lift.max() < 1 + 1e-6 and not again.v.any()
    assert abs(np.corrcoef(lift.ravel(), np.asarray(again.y).ravel())[0, 1]) < 0.01


def convolved(y):
    """A small network: what a chain gets depends on all its voxels."""
    kernel = jnp.asarray(KERNEL, y.dtype)
    return jnp.tanh(
        jax.lax.conv_general_dilated(y, kernel, (1, 1, 1), "SAME", dimension_numbers=("NCXYZ", "OIXYZ", "NCXYZ"))
    )


SHAPE = (3, 4, 4, 4)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 3, 3)) / 9


@pytest.mark.parametrize("parts", [(1, 6), (3, 3, 1), (7,)])
def test_walking_on_from_a_saved_state_is_not_having_stopped(parts, tmp_path):
    state = started(KEY, jnp.arange(3), SHAPE, PUBLISHED)
    whole = walked(convolved, state, 7, KEY, PUBLISHED)
    for n in parts:
        np.savez(tmp_path / "state.npz", **state._asdict())
        with np.load(tmp_path / "state.npz") as saved:
            state = W.State(**saved)
        state = walked(convolved, state, n, KEY, PUBLISHED)
    assert_same(state, whole)
    assert not np.allclose(state.y, walked(convolved, state, 7, jax.random.key(8), PUBLISHED).y)


def test_a_chain_does_not_depend_on_those_beside_it():
    ids = jnp.array([5, 2, 9, 40, 0])
    together = walked(convolved, started(KEY, ids, SHAPE, PUBLISHED), 9, KEY, PUBLISHED)
    for row, chain in list(enumerate(ids))[1:4]:
        alone = walked(convolved, started(KEY, chain[None], SHAPE, PUBLISHED), 9, KEY, PUBLISHED)
        np.testing.assert_allclose(alone.y[0], together.y[row], atol=1e-5)
    exactly = walked(shrink, started(KEY, ids, SHAPE, PUBLISHED), 9, KEY, PUBLISHED)
    some = walked(shrink, started(KEY, ids[1:3], SHAPE, PUBLISHED), 9, KEY, PUBLISHED)
    np.testing.assert_array_equal(some.y, exactly.y[1:3])
    assert not np.allclose(exactly.y[0], exactly.y[1], atol=0.1)


def test_spread_over_devices_it_walks_the_same():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, P("data"))
    state = started(KEY, jnp.arange(16), SHAPE, PUBLISHED)
    on_all = W.State(*(jax.device_put(a, spread if a.ndim else NamedSharding(mesh, P())) for a in state))
    end = walked(convolved, on_all, 5, KEY, PUBLISHED)
    assert end.y.sharding.is_equivalent_to(spread, end.y.ndim)
    np.testing.assert_allclose(end.y, walked(convolved, state, 5, KEY, PUBLISHED).y, atol=1e-5)


def turned_noise(key, chain, shape):
    seed, g = chain
    return es.grid(g, W.normal(key, seed, shape))


def test_with_noise_turned_along_the_samples_of_an_equivariant_denoiser_turn():
    distance = np.abs(np.indices((3, 3, 3)) - 1).sum(0)
    symmetric = np.random.default_rng(1).normal(size=(3, 3, 4))[..., distance] / 9

    def denoise(y):
        dimensions = ("NCXYZ", "OIXYZ", "NCXYZ")
        mixed = jax.lax.conv_general_dilated(y, jnp.float32(symmetric), (1, 1, 1), "SAME", dimension_numbers=dimensions)
        return jnp.tanh(mixed)

    turns = jnp.asarray(cube(), jnp.float32)
    clean = jax.random.uniform(jax.random.key(1), SHAPE)
    turn = jax.vmap(es.grid, in_axes=(0, None))
    chains = (jnp.full(24, 6), turns)
    state = W.start_from(KEY, chains, turn(turns, clean), PUBLISHED, turned_noise)
    np.testing.assert_array_equal(state.y, turn(turns, state.y[0]))
    end = walked(denoise, state, 20, KEY, PUBLISHED, turned_noise)
    np.testing.assert_allclose(end.y, turn(turns, end.y[0]), atol=1e-5)
    jumped = W.jump(denoise, end)
    np.testing.assert_allclose(jumped, turn(turns, jumped[0]), atol=1e-5)
    assert np.abs(end.y[0] - end.y[1]).max() > 0.1


def test_a_walk_that_would_diverge_is_refused_and_the_bound_is_sharp():
    with pytest.raises(ValueError, match=r"raise lipschitz from 1 to above 6\.25; 81 is what"):
        W.start(KEY, jnp.arange(1), (2,), W.Walk(0.1))
    with pytest.raises(ValueError, match="friction=-1: give a positive number"):
        W.walk(shrink, None, 1, KEY, PUBLISHED._replace(friction=-1))
    assert W.in_units_of(0.9) == PUBLISHED
    for sigma, grows in ((0.249, True), (0.251, False)):
        u, zeta = 1.0, math.exp(-1)
        kick = np.array([[1, 0], [-u / 4 / sigma**2, 1]])
        drift = np.array([[1, 1 / 4], [0, 1]])
        radius = np.abs(np.linalg.eigvals(drift @ kick @ np.diag([1, zeta]) @ kick @ drift)).max()
        assert (radius > 1) == grows
