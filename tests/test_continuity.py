"""Ratios along paths in closed form: of maps, of jumps, and of the jumps that frames and poses have by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equiscale as es
from equiscale.continuity import continuity_along

SYM = es.Symmetry(es.so3.haar(2), es.vectors, es.vectors)
SEEDS = st.integers(0, 2**31)
PIECES, HALVINGS = 16, 20


def itself(x):
    return x, None


def matrix(seed):
    return np.random.default_rng(seed).normal(size=(3, 3))


def size(x):
    """The root mean square over the components of an example."""
    return np.sqrt(np.square(x).mean((1, 2)))


def along(f):
    """Compiled: the ratios of f(w, x) on given paths."""
    return jax.jit(lambda w, x, path: continuity_along(lambda x: f(w, x), x, path, pieces=PIECES, halvings=HALVINGS))


def averaged(measure):
    sym = es.Symmetry(measure, es.vectors, es.vectors)
    return along(lambda w, x: es.symmetrise(lambda x: jnp.tanh(x @ w.T), sym, jax.random.key(0))(x))


PLAIN = along(lambda w, x: x @ w.T)
FRAMES = along(lambda w, x: es.frame_average(lambda x: x @ w.T, SYM, itself)(x))
POSE = along(lambda w, x: es.canonicalise(lambda x: x @ w.T, SYM, itself)(x))
HAAR = [averaged(measure) for measure in (es.so3.coset(12), es.so3.quadrature(6))]

# Three points on each axis, which has its spread and its skewness to itself.
SKEWED = np.array([2.0, -1, -1])


def axes(x, y, z):
    """Nine points [1, 9, 3]: coordinates [3] along each axis."""
    return np.concatenate([np.outer(along, row) for row, along in zip(np.eye(3), (x, y, z), strict=True)])[None]


X = axes(1.4 * SKEWED, SKEWED, 0.3 * SKEWED)
# The first two spreads meet at 0.4 of this path, where they are 1.2: the first two axes change places.
SPREADS_MEET = axes(-0.5 * SKEWED, 0.5 * SKEWED, 0 * SKEWED)
# The skewness along the first axis vanishes at 5/9 of this path: its sign changes, and the spreads keep their order.
SKEWNESS_VANISHES = axes(1.4 * 0.9 * np.array([-1.0, 2, -1]), 0 * SKEWED, 0 * SKEWED)


@given(seed=SEEDS)
def test_of_a_linear_map_every_step_has_the_same_ratio(seed):
    with jax.enable_x64(True):
        w, rng = matrix(seed), np.random.default_rng(seed)
        x, path = rng.normal(size=(2, 1, 9, 3))
        found = PLAIN(w, x, path)
        np.testing.assert_allclose(found.steps[:, 0], size(path) / 2.0 ** np.arange(25), rtol=1e-12)
        np.testing.assert_allclose(found.ratios[:, 0], np.full(25, size(path @ w.T) / size(path)), rtol=1e-7)


@given(seed=SEEDS)
def test_where_spreads_meet_frames_and_pose_jump_by_what_the_axes_exchange(seed):
    """Of f(x) = W x: frames by diag(W_22 - W_11, W_11 - W_22, 0) x, the pose by (R^-1 W R - W) x, R = (y, x, -z).

    The ratio at the smallest steps is the jump over the step, and doubles when the step halves.
    """
    with jax.enable_x64(True):
        w, there = matrix(seed), X + 0.4 * SPREADS_MEET
        r = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
        exchanged = np.diag(np.diag(w)[[1, 0, 2]] - np.diag(w))
        for ratios_of, jump in ((FRAMES, exchanged), (POSE, r.T @ w @ r - w)):
            steps, ratios, _ = (a[:, 0] for a in ratios_of(w, X, SPREADS_MEET))
            np.testing.assert_allclose((ratios * steps)[-1], size(there @ jump.T)[0], rtol=1e-3)
            np.testing.assert_allclose(ratios[-1] / ratios[-4], 8, rtol=1e-2)


@given(seed=SEEDS)
def test_where_skewness_vanishes_the_pose_jumps_and_the_frame_average_does_not(seed):
    """By a half turn about y, and not at all: the average of frames is diag(W) x on the whole path."""
    with jax.enable_x64(True):
        w, there = matrix(seed), X + 5 / 9 * SKEWNESS_VANISHES
        r = np.diag([-1.0, 1, -1])
        steps, ratios, _ = (a[:, 0] for a in POSE(w, X, SKEWNESS_VANISHES))
        np.testing.assert_allclose((ratios * steps)[-1], size(there @ (r.T @ w @ r - w).T)[0], rtol=1e-3)
        np.testing.assert_allclose(FRAMES(w, X, SKEWNESS_VANISHES).ratios, abs(w[0, 0]), rtol=1e-5)


@pytest.mark.parametrize("ratios_of", HAAR, ids=["coset", "weighted nodes"])
@given(seed=SEEDS)
def test_a_weighted_average_over_fixed_rotations_is_no_steeper_than_its_function(ratios_of, seed):
    """sum_k w_k g_k^-1 f(g_k x) has f's Lipschitz constant, |W| for tanh(W x), where the others jump and elsewhere."""
    with jax.enable_x64(True):
        w = matrix(seed)
        random = np.random.default_rng(seed).normal(size=(1, 9, 3))
        for path in (SPREADS_MEET, SKEWNESS_VANISHES, random):
            assert ratios_of(w, X, path).ratios.max() <= np.linalg.norm(w, 2) * (1 + 1e-6)


@given(seed=SEEDS)
def test_ratios_never_fall_as_steps_shrink(seed):
    """The triangle inequality, of whichever half is kept."""
    with jax.enable_x64(True):
        x, path = np.random.default_rng(seed).normal(size=(2, 1, 9, 3))
        for ratios_of in (POSE, FRAMES, HAAR[0]):
            ratios = ratios_of(matrix(seed), x, path).ratios[:, 0]
            assert (np.diff(ratios) >= -1e-6 * ratios[1:]).all()


def test_examples_have_paths_of_their_own_whatever_the_batch_and_the_padding():
    """What is padded is neither moved nor looked at, and an example takes its path by its id."""
    rng = np.random.default_rng(0)
    points, real = rng.normal(size=(3, 6, 3)).astype(np.float32), np.arange(6) < np.array([[6], [4], [0]])

    def f(batch):
        x = jnp.where(batch["real"][..., None], batch["points"], 0)
        moved = jnp.sin(3 * x) + x.sum(1, keepdims=True)
        return {"each": jnp.where(batch["real"][..., None], moved, jnp.nan), "all": x.sum(1)}

    @jax.jit
    def ratios(points, real, ids):
        return es.continuity(
            f,
            {"points": points, "real": real},
            jax.random.key(0),
            positions=lambda batch: (batch["points"], batch["real"]),
            move=lambda batch, by: {**batch, "points": batch["points"] + by},
            mask={"each": real, "all": None},
            example_ids=ids,
            length=0.3,
        )

    whole = ratios(points, real, np.arange(3))
    wide = np.pad(points[1:2, :4], ((0, 0), (0, 5), (0, 0)), constant_values=np.nan)
    alone = ratios(wide, np.arange(9)[None] < 4, np.array([1]))
    np.testing.assert_allclose(whole.steps[:, :2], np.tile(0.3 / 2.0 ** np.arange(13), (2, 1)).T, rtol=1e-5)
    np.testing.assert_allclose(alone.ratios[:, 0], whole.ratios[:, 1], rtol=0.02)
    assert (whole.ratios[:, :2] > 0.1).all() and not np.allclose(whole.ratios[:, 0], whole.ratios[:, 1], rtol=0.05)
    for nothing in whole:
        np.testing.assert_array_equal(nothing[:, 2], 0)


def test_the_floor_is_the_last_digit_over_the_step():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 50, 3)), jnp.float32)
    found = jax.jit(lambda x, key: es.continuity(lambda x: 2 * x, x, key))(x, jax.random.key(0))
    digit = 2 * np.finfo(np.float32).eps * size(x)
    np.testing.assert_allclose(found.floors * found.steps, np.tile(digit, (13, 1)), rtol=0.3)
    assert jnp.abs(found.ratios - 2).max() < 10 * found.floors.max()


def test_pieces_are_a_power_of_two():
    with pytest.raises(ValueError, match="pieces=12 is no power of two"):
        continuity_along(lambda x: x, jnp.zeros((1, 3, 3)), jnp.ones((1, 3, 3)), pieces=12)
