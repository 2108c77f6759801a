"""Frames and poses: exact for any function where spreads differ, finite on all points, differentiable as stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import equiscale as es
from equiscale import actions
from equiscale.frames import pose, principal_frame
from equiscale.rotations import half_turns

SYM = es.Symmetry(es.so3.haar(2), es.vectors, es.vectors)
METHODS = {"frames": es.frame_average, "pose": es.canonicalise}
SEEDS = st.integers(0, 2**31)
both = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def itself(x):
    return x, None


def network(params, x):
    """A smooth function of a batch of points [batch, n, 3], of each point and all others, without any symmetry."""
    h = jnp.tanh(x @ params["in"] + jnp.tanh(x @ params["others"]).mean(1, keepdims=True))
    return h @ params["out"] + params["bias"]


def parameters(seed, width=8):
    rng = np.random.default_rng(seed)
    shapes = {"in": (3, width), "others": (3, width), "out": (width, 3), "bias": (3,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def of(f):
    """By each method, compiled: (parameters, x) -> prediction."""

    def by(make):
        return jax.jit(lambda params, x: make(lambda x: f(params, x), SYM, itself)(x))

    return {make: by(make) for make in METHODS.values()}


def twisted(params, x, g):
    return es.twist(lambda x: network(params, x), SYM)(g[None], x)


NETWORK, LINEAR = of(network), of(lambda w, x: x @ w.T)
EQUIVARIANT = of(lambda scale, x: scale * x * jnp.linalg.norm(x, axis=-1, keepdims=True) - x.mean(1, keepdims=True))
TWISTS = jax.jit(jax.vmap(twisted, (None, None, 0)))


def cloud(seed):
    """Points whose spreads and skewness are apart from each other and from zero by more than rounding."""
    points = np.random.default_rng(seed).normal(size=(5, 3)) * [1.5, 1.0, 0.6] + [0.3, -0.2, 0.1]
    apart = points - points.mean(0)
    spreads, axes = np.linalg.eigh(apart.T @ apart)
    assume(np.diff(spreads).min() > 1e-2 and np.abs(((apart @ axes) ** 3).sum(0)).min() > 1e-2)
    return points @ turn(seed).T


def turn(seed):
    return Rotation.random(rng=seed + 1).as_matrix()


CLOUD = np.random.default_rng(3).normal(size=(5, 3)) * [1.5, 1.0, 0.6]


@both
@given(seed=SEEDS)
def test_any_function_is_made_equivariant(make, seed):
    """M(g x) = g M(x), to rounding of float64."""
    with jax.enable_x64(True):
        x, g, params = cloud(seed)[None], turn(seed + 5), parameters(seed)
        np.testing.assert_allclose(NETWORK[make](params, x @ g.T), NETWORK[make](params, x) @ g.T, atol=1e-10)
        plain, turned = TWISTS(params, x, np.stack([np.eye(3), g]))
        assert jnp.abs(plain - turned).max() > 1e-3


@both
@given(seed=SEEDS)
def test_an_equivariant_function_stays_what_it_is(make, seed):
    with jax.enable_x64(True):
        x = cloud(seed)[None]
        plain = 2 * x * np.linalg.norm(x, axis=-1, keepdims=True) - x.mean(1, keepdims=True)
        np.testing.assert_allclose(EQUIVARIANT[make](2.0, x), plain, atol=1e-12)


@given(seed=SEEDS)
def test_of_a_linear_map_frames_keep_the_diagonal_and_a_pose_the_map(seed):
    """For f(x) = W x: sum_k W_kk e_k e_k^T x over the principal axes e_k, and R^-1 W R x, by NumPy's eigenvectors."""
    with jax.enable_x64(True):
        points, w = cloud(seed), np.random.default_rng(seed).normal(size=(3, 3))
        apart = points - points.mean(0)
        axes = np.linalg.eigh(apart.T @ apart)[1].T[::-1]
        axes[:2] *= np.sign(((apart @ axes.T) ** 3).sum(0))[:2, None]
        axes[2] = np.cross(*axes[:2])
        for make, kept in ((es.frame_average, np.diag(np.diag(w))), (es.canonicalise, w)):
            found = LINEAR[make](w, points[None])[0]
            np.testing.assert_allclose(found, points @ (axes.T @ kept @ axes).T, atol=1e-10)


@given(seed=SEEDS)
def test_the_four_frames_are_right_handed_and_the_pose_is_one_of_them(seed):
    points, real = cloud(seed).astype(np.float32), np.ones(5, bool)
    frames = half_turns() @ np.asarray(principal_frame(points, real))
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), np.tile(np.eye(3), (4, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-5)
    assert (np.abs(frames - np.asarray(pose(points, real))).max((1, 2)) < 1e-5).sum() == 1


@given(seed=SEEDS, weights=st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_the_loss_of_an_average_is_not_more_than_the_average_loss(seed, weights):
    """Jensen: of frames, and of any fixed rotations with any weights, for the squared error."""
    with jax.enable_x64(True):
        x, params = cloud(seed)[None], parameters(seed)
        y = np.random.default_rng(seed).normal(size=x.shape)
        frames = half_turns() @ np.asarray(principal_frame(x[0], np.ones(5, bool)))
        for elements, shares in ((frames, np.full(4, 1 / 4)), (Rotation.random(4, rng=seed).as_matrix(), weights)):
            each, shares = np.asarray(TWISTS(params, x, elements)), shares / np.sum(shares)
            losses = np.square(each - y).mean((1, 2, 3))
            average = np.tensordot(shares, each, 1)
            assert np.square(average - y).mean() <= shares @ losses
            if elements is frames:
                np.testing.assert_allclose(NETWORK[es.frame_average](params, x), average, atol=1e-12)


# --- batches ---------------------------------------------------------------------------------------------------


def molecules():
    """Points and which of them count, in [2, 6]; what does not count is NaN."""
    real = np.array([[1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 1]], bool)
    points = np.random.default_rng(2).normal(size=(2, 6, 3)) * np.array([2, 1.5, 1])
    return np.where(real[..., None], points, np.nan).astype(np.float32), real


MASKED = es.Symmetry(es.octahedral.enumerate(), {"points": es.vectors, "real": es.trivial}, es.vectors)


def blind(batch):
    """A function of real points alone, 0 elsewhere."""
    x = jnp.where(batch["real"][..., None], batch["points"], 0)
    z = jnp.tanh(x * jnp.array([1.0, 2, 3]) + x.sum(1, keepdims=True)) + jnp.array([0.5, 0, 0.2])
    return jnp.where(batch["real"][..., None], z, 0)


def masked(make):
    return jax.jit(make(blind, MASKED, lambda batch: (batch["points"], batch["real"])))


def energy(make, scale, points, real):
    return jnp.square(scale * masked(make)({"points": points, "real": real}) - 1).sum()


SLOPES = jax.jit(jax.value_and_grad(energy, (1, 2)), static_argnums=0)


@both
def test_padding_order_and_batch_change_nothing(make):
    points, real = molecules()
    model = masked(make)
    whole = model({"points": points, "real": real})
    for i in range(2):
        alone = model({"points": points[i : i + 1, real[i]], "real": np.ones((1, 4), bool)})
        np.testing.assert_allclose(whole[i, real[i]], alone[0], atol=2e-6)
    back = model({"points": points[:, ::-1], "real": real[:, ::-1]})
    np.testing.assert_allclose(whole, back[:, ::-1], atol=2e-6)


@both
def test_it_is_the_same_under_jit_vmap_and_in_rows_of_a_padded_graph(make):
    x = jnp.stack([jnp.asarray(np.random.default_rng(i).normal(size=(4, 5, 3)), jnp.float32) for i in range(2)])
    f = lambda x: network(parameters(0), x)  # noqa: E731
    model = make(f, SYM, itself)
    expected = jnp.stack([NETWORK[make](parameters(0), part) for part in x])
    np.testing.assert_allclose(model(x[0]), expected[0], atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(model))(x), expected, atol=1e-5)
    rows = es.Symmetry(es.so3.haar(2), es.segmented(es.vectors), es.segmented(es.vectors))
    in_rows = make(lambda r: f(r.reshape(4, 5, 3)).reshape(-1, 3), rows, lambda r: (r.reshape(4, 5, 3), None))
    found = in_rows(x[0].reshape(-1, 3), segments=jnp.repeat(jnp.arange(4), 5))
    np.testing.assert_allclose(found.reshape(4, 5, 3), expected[0], atol=1e-5)
    if make is es.frame_average:
        np.testing.assert_allclose(make(f, SYM, itself, chunk=3)(x[0]), expected[0], atol=1e-5)


@both
def test_every_output_turns_by_its_own_action(make):
    acts = {"energy": es.scalars, "dipole": es.vectors, "stress": es.tensors(2)}

    def f(x):
        z = network(parameters(0), x).mean(1)
        return {"energy": z[:, 0], "dipole": z, "stress": z[:, :, None] * jnp.tanh(z[:, None])}

    with jax.enable_x64(True):
        model = jax.jit(make(f, es.Symmetry(es.so3.haar(2), es.vectors, acts), itself))
        x, g = jnp.asarray(CLOUD)[None], turn(8)
        turned = actions.apply(acts, jnp.asarray(g)[None], model(x))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), model(x @ g.T), turned)


# --- points that have no frame of their own ----------------------------------------------------------------------

LINE = np.array([1.0, 0.3, -0.8, -0.5])[:, None] * np.array([2, -1, 2]) / 3
DEGENERATE = {
    "linear": LINE,
    "two atoms": np.array([[0.5, 0.2, -0.1], [-0.5, -0.2, 0.1]]),
    "one atom": np.zeros((1, 3)),
    "tetrahedron": np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
    "square": np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]),
    "nothing": np.zeros((0, 3)),
}


@both
@pytest.mark.parametrize("name", DEGENERATE)
def test_values_and_gradients_are_finite_on_any_points(make, name):
    """By parameters and by the points, padded to five with others that stand elsewhere."""
    points = np.full((1, 5, 3), 7.0, np.float32)
    points[0, : len(DEGENERATE[name])] = DEGENERATE[name]
    real = (np.arange(5) < len(DEGENERATE[name]))[None]
    value, (by_scale, by_points) = SLOPES(make, 2.0, points, real)
    assert np.isfinite(value) and np.isfinite(by_scale) and np.isfinite(by_points).all()


@both
@given(seed=SEEDS)
def test_planar_points_are_nothing_special(make, seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        flat = np.pad(rng.normal(size=(5, 2)) * [2, 1], ((0, 0), (0, 1)))
        apart = flat - flat.mean(0)
        spreads, axes = np.linalg.eigh(apart[:, :2].T @ apart[:, :2])
        assume(np.diff(spreads)[0] > 1e-2 and np.abs(((apart[:, :2] @ axes) ** 3).sum(0)).min() > 1e-2)
        x, g, params = (flat @ turn(seed).T)[None], turn(seed + 5), parameters(seed)
        np.testing.assert_allclose(NETWORK[make](params, x @ g.T), NETWORK[make](params, x) @ g.T, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "two atoms", "one atom"])
def test_vectors_of_centred_lines_are_exact_by_frames_although_no_frame_is(name):
    """Whatever the axes across the line, half turns about it leave of each vector what lies along it."""
    points = DEGENERATE[name] - DEGENERATE[name].mean(0)
    with jax.enable_x64(True):
        x, g, params = points[None], turn(4), parameters(0)
        still, turned = (NETWORK[es.frame_average](params, x) for x in (x, x @ g.T))
        np.testing.assert_allclose(turned, still @ g.T, atol=1e-10)
        np.testing.assert_allclose(np.cross(still[0], points[0]), 0, atol=1e-10)


# --- gradients -------------------------------------------------------------------------------------------------


@both
def test_gradients_by_parameters_are_those_of_finite_differences(make):
    with jax.enable_x64(True):
        x = np.stack([CLOUD, DEGENERATE["linear"][[0, 1, 2, 3, 3]]])
        loss = jax.jit(jax.value_and_grad(lambda params: jnp.square(NETWORK[make](params, x) - x).mean()))
        params, along = parameters(1), parameters(2)
        slope = loss(params)[1]
        moved = [loss({name: params[name] + t * along[name] for name in along})[0] for t in (-1e-5, 1e-5)]
        expected = sum(np.vdot(slope[name], along[name]) for name in along)
        np.testing.assert_allclose((moved[1] - moved[0]) / 2e-5, expected, rtol=1e-6)


@both
def test_the_gradient_of_an_invariant_energy_is_its_slope_and_turns(make):
    """By finite differences, so that forces made from an energy this way are conservative away from the jumps."""
    with jax.enable_x64(True):
        scalar = es.Symmetry(es.so3.haar(2), es.vectors, es.scalars)
        model = make(lambda x: network(parameters(0), x)[..., 0].sum(1), scalar, itself)
        slope = jax.jit(jax.value_and_grad(lambda x: model(x[None])[0]))
        x, g = CLOUD, turn(9)
        force = slope(x)[1]
        for place in ((0, 0), (2, 1), (4, 2)):
            h = np.zeros_like(x)
            h[place] = 1e-5
            np.testing.assert_allclose((slope(x + h)[0] - slope(x - h)[0]) / 2e-5, force[place], atol=1e-8)
        np.testing.assert_allclose(slope(x @ g.T)[1], force @ g.T, atol=1e-9)


# --- refusals --------------------------------------------------------------------------------------------------


@both
def test_what_does_not_fit_is_named(make):
    x = jnp.zeros((2, 4, 3))
    with pytest.raises(ValueError, match=r"of the group o3: give a Symmetry with a measure on so3"):
        make(lambda x: x, es.Symmetry(es.o3.haar(2), es.vectors, es.vectors), itself)
    with pytest.raises(ValueError, match=r"points \[batch, n, 3\], got shape \[4, 3\]"):
        make(lambda x: x, SYM, itself)(x[0])
    with pytest.raises(ValueError, match=r"the mask must be \[2, 4\], got"):
        make(lambda x: x, SYM, lambda x: (x, jnp.ones((2, 5), bool)))(x)
