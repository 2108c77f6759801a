"""The Lie derivative: zero for equivariant functions, the commutator for linear ones, and what twists tend to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import equiscale as es
from equiscale.lie import layerwise, lie_derivative
from equiscale.measures import listed
from equiscale.rotations import _axis_angle, exp_rotation, infinitesimal_rotations

# Compiling takes most of the time here, so let it optimise little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

X = infinitesimal_rotations()
BOTH = es.Symmetry(es.so3.haar(2), es.vectors, es.vectors)


def network(seed=0, width=16):
    """A smooth function of a batch of three points, without any symmetry."""
    a, b = jax.random.split(jax.random.key(seed))
    w, v = 0.4 * jax.random.normal(a, (9, width)), jax.random.normal(b, (width, 9)) / width**0.5
    return lambda x: (jnp.tanh(x.reshape(-1, 9) @ w) @ v).reshape(-1, 3, 3)


def points(n=5, seed=1):
    return jax.random.normal(jax.random.key(seed), (n, 3, 3))


def derivative(f, sym, x, **settings):
    return jit(lambda x: lie_derivative(f, sym, x, **settings))(x)


# --- groups near their identity --------------------------------------------------------------------------------


@given(axis=st.sampled_from([0, 1, 2]), angle=st.floats(-3.1, 3.1) | st.floats(-0.02, 0.02))
@settings(max_examples=15)
def test_the_exponential_is_the_rotation_by_that_angle(axis, angle):
    with jax.enable_x64(True):
        r = exp_rotation(jnp.asarray(angle * X[axis]))
    np.testing.assert_allclose(r, _axis_angle(np.eye(3)[axis], angle), atol=1e-14)


def test_the_exponential_starts_along_its_generator(x64):
    """d/dt exp(tK) = K and d^2/dt^2 = K^2 at 0, where the angle itself has no derivative."""
    k = jnp.tensordot(jnp.array([0.3, -1.2, 0.5]), X, 1)
    curve = jax.jacfwd(lambda t: exp_rotation(t * k))
    np.testing.assert_allclose(curve(0.0), k, atol=1e-14)
    np.testing.assert_allclose(jax.jacfwd(curve)(0.0), k @ k, atol=1e-14)


def test_normal_draws_are_near_the_identity_by_sigma():
    """g - 1 = sigma sum_a eps_a X_a to first order: its coordinates have standard deviation sigma."""
    measure = es.so3.normal(4000, 0.01)
    g = np.asarray(measure.draw(jax.random.key(0)))[:, 0]
    np.testing.assert_allclose(g @ g.transpose(0, 2, 1), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-6)
    eps = np.einsum("aij,nij->na", X, g) / 2
    np.testing.assert_allclose(np.cov(eps.T), 1e-4 * np.eye(3), atol=5e-6)
    assert (str(measure), measure.n_units, measure.unit_size) == ("so3.normal(4000, sigma=0.01)", 4000, 1)
    key = jax.random.key(1)
    shifts = 1.5 * jax.vmap(lambda k: jax.random.normal(k, (3,)))(jax.random.split(key, 4))
    np.testing.assert_allclose(es.translations.normal(4, 1.5).draw(key)[:, 0], shifts, rtol=1e-6)
    assert jnp.linalg.det(es.o3.normal(9, 1.0).draw(key)).min() > 0, "the identity's component"


@pytest.mark.parametrize("group", [es.octahedral, es.permutations(3)], ids=lambda g: g.name)
def test_finite_groups_have_no_algebra(group):
    with pytest.raises(ValueError, match=r"no Lie algebra.*so3"):
        group.normal(3, 0.1)
    with pytest.raises(ValueError, match=r"no Lie algebra"):
        lie_derivative(lambda x: x, es.Symmetry(group.enumerate(), es.trivial, es.trivial), jnp.ones((2, 3)))


# --- closed forms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [es.so3, es.o3], ids=lambda g: g.name)
def test_zero_for_equivariant_functions(group):
    sym = es.Symmetry(group.haar(2), es.vectors, es.vectors)
    d = derivative(lambda x: x * jnp.linalg.norm(x, axis=-1, keepdims=True), sym, points())
    assert d.square < 1e-11 < 1 < derivative(lambda x: x * jnp.array([1.0, 2, 3]), sym, points()).square
    invariant = es.Symmetry(group.haar(2), es.vectors, es.trivial)
    assert derivative(lambda x: jnp.square(x).sum((1, 2)), invariant, points()).square < 1e-9


def test_a_linear_map_gives_its_commutators(x64):
    """f(x) = A x: L_X f = (A X - X A) x. For x of unit covariance the mean square is sum_a |[A, X_a]|_F^2 / 3."""
    a = jax.random.normal(jax.random.key(0), (3, 3))
    x = jax.random.normal(jax.random.key(1), (6, 3))
    x = jnp.concatenate([jnp.eye(3), x])
    d = derivative(lambda x: x @ a.T, BOTH, x)
    commutators = np.stack([a @ k - k @ a for k in X])
    per_example = np.square(np.einsum("aij,nj->nai", commutators, x)).sum((1, 2)) / 3
    np.testing.assert_allclose(d.per_example, per_example, rtol=1e-12)
    np.testing.assert_allclose(d.square, per_example.mean(), rtol=1e-12)
    np.testing.assert_allclose(d.per_example[:3].sum(), np.square(commutators).sum() / 3, rtol=1e-12)
    np.testing.assert_allclose(d.square_stderr, per_example.std(ddof=1) / 3, rtol=1e-12)
    signal = np.square(x @ a.T).mean()
    np.testing.assert_allclose(d.signal_relative, per_example.mean() / signal, rtol=1e-12)


@pytest.mark.parametrize(
    "group, act_in, act_out, shape",
    [
        (es.so3, es.vectors, es.vectors, (3, 3)),
        (es.so3, es.irreps("3x0e + 2x1o"), es.irreps("1x0e + 1x1e + 1x2e"), (9,)),
        (es.so3, es.tensors(2), es.tensors(2), (3, 3)),
        (es.translations, es.translate, es.trivial, (3, 3)),
    ],
    ids=["vectors", "irreps", "tensors", "translate"],
)
def test_against_finite_differences_of_the_twist(x64, group, act_in, act_out, shape):
    w = jax.random.normal(jax.random.key(0), (9, 9)) / 3

    def f(x):
        return jnp.tanh(x.reshape(len(x), 9) @ w).reshape(x.shape)

    x = jax.random.normal(jax.random.key(1), (4, *shape))
    sym = es.Symmetry(group.normal(2, 0.1), act_in, act_out)
    d = derivative(f, sym, x)
    twist = jit(es.twist(f, sym))
    expected, t = 0, 1e-3
    for generator in group.generators():
        ends = []
        for step in (-2 * t, -t, t, 2 * t):
            g = group.exp(jnp.asarray(step * generator))
            ends.append(twist(jnp.broadcast_to(g, (4, *g.shape)), x).reshape(4, 9))
        difference = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * t)
        expected += jnp.square(difference).mean(1)
    np.testing.assert_allclose(d.per_example, expected, rtol=1e-7)


# --- what the equivariance loss tends to -----------------------------------------------------------------------


def test_equivariance_loss_near_the_identity_is_sigma_squared_times_it(x64):
    """Over six elements exp(+-sqrt(3) sigma X_a), of the Gaussian's mean and covariance, without sampling error."""
    f, x = network(), points(seed=3)
    square = derivative(f, BOTH, x).square
    excess = []
    for sigma in (0.04, 0.02, 0.01):
        steps = sigma * 3**0.5 * np.concatenate([X, -X])
        six = listed(es.so3, "six", np.asarray(jax.vmap(exp_rotation)(jnp.asarray(steps))))
        sym = es.Symmetry(six, es.vectors, es.vectors)
        d = jit(lambda x, sym=sym: es.decompose(f, sym, x, x, key=jax.random.key(0)))(x)
        excess.append(abs(float(d.equiv / (sigma**2 * square)) - 1))
    assert excess[-1] < 1e-3
    np.testing.assert_allclose([excess[0] / excess[1], excess[1] / excess[2]], 4, rtol=0.1, err_msg="second order")


def test_normal_draws_estimate_it_without_bias(x64):
    """Draws are units of one element each, so two of them are enough: E equiv = sigma^2 |L f|^2, within the sampling
    error of 1,000 pairs for each of 5 examples, where the plug-in number is half of it."""
    f, x, sigma = network(), points(seed=3), 1e-3
    many, expected = jnp.tile(x, (1000, 1, 1)), sigma**2 * derivative(f, BOTH, x).square
    sym = es.Symmetry(es.so3.normal(2, sigma), es.vectors, es.vectors)
    for plug_in, ratio in ((False, 1), (True, 0.5)):
        d = jit(lambda x, p=plug_in: es.decompose(f, sym, x, x, key=jax.random.key(0), plug_in=p))(many)
        np.testing.assert_allclose(d.equiv / expected, ratio, rtol=0.06)


# --- layers ----------------------------------------------------------------------------------------------------


def test_contributions_of_layers_add_up_to_the_whole():
    first, second = network(1), network(2)
    layers = [first, lambda x: x * jnp.linalg.norm(x, axis=-1, keepdims=True), second]
    d = jit(lambda x: layerwise(layers, [es.vectors] * 4, es.so3, x))(points())
    whole = derivative(lambda x: second(layers[1](first(x))), BOTH, points())
    np.testing.assert_allclose(d.square, whole.square, rtol=1e-4)
    np.testing.assert_allclose(d.per_example, whole.per_example, rtol=1e-4)
    np.testing.assert_allclose(sum(d.shares), 1, rtol=1e-5)
    assert abs(d.shares[1]) < 1e-5 and d.layers[1] < 1e-9, "an equivariant layer adds nothing"


def test_layers_of_linear_maps_in_closed_form(x64):
    """f = B A: L f = [B, X] A + B [A, X], whatever action is put between, if it is the same for both."""
    a, b, x = (jax.random.normal(jax.random.key(i), (3, 3)) for i in range(3))
    layers = [lambda x: x @ a.T, lambda x: x @ b.T]
    d = layerwise(layers, [es.vectors] * 3, es.so3, x)
    parts = np.stack([[b @ (a @ k - k @ a), (b @ k - k @ b) @ a] for k in X], axis=1)
    parts = np.einsum("laij,nj->lani", parts, x)
    np.testing.assert_allclose(d.layers, np.square(parts).sum((1, 3)).mean(1) / 3, rtol=1e-10)
    whole = parts.sum(0)
    np.testing.assert_allclose(d.shares, (parts * whole).sum((1, 2, 3)) / np.square(whole).sum(), rtol=1e-10)
    other = layerwise(layers, [es.vectors, es.trivial, es.vectors], es.so3, x)
    np.testing.assert_allclose(other.square, d.square, rtol=1e-10)
    assert abs(other.shares[0] - d.shares[0]) > 1e-3, "the shares depend on the action inside"


def test_layers_pass_on_leaves_that_are_not_differentiable():
    species = jnp.ones((5, 3), int)
    acts = {"positions": es.vectors, "species": es.trivial}

    def first(batch):
        return {"positions": network()(batch["positions"]), "species": batch["species"] + 1}

    def second(batch):
        return batch["positions"] * batch["species"][..., None]

    x = {"positions": points(), "species": species}
    d = layerwise([first, first, second], [acts, acts, acts, es.vectors], es.so3, x)
    whole = lie_derivative(lambda x: second(first(first(x))), es.Symmetry(es.so3.haar(2), acts, es.vectors), x)
    np.testing.assert_allclose(d.square, whole.square, rtol=1e-4)


# --- batches ---------------------------------------------------------------------------------------------------


def test_padding_masks_and_batches_change_nothing():
    f, x = network(), points(6)
    whole = derivative(f, BOTH, x)
    parts = derivative(f, BOTH, x[:3]) + derivative(f, BOTH, x[3:])
    padded = derivative(f, BOTH, jnp.concatenate([x, 9 * x[:2]]), weight=jnp.array([1.0] * 6 + [0, 0]))
    for d in (parts, padded, derivative(f, BOTH, x, chunk=1), lie_derivative(f, BOTH, x)):
        np.testing.assert_allclose(d.square, whole.square, rtol=1e-5)
        np.testing.assert_allclose(d.square_stderr, whole.square_stderr, rtol=1e-4)
    first_atom = jnp.tile(jnp.array([1.0, 0, 0]), (6, 1))
    masked = derivative(f, BOTH, x, mask=first_atom)
    alone = derivative(lambda x: f(x)[:, :1], BOTH, x)
    np.testing.assert_allclose(masked.per_example, alone.per_example, rtol=1e-5)
    pairs = derivative(f, BOTH, x, clusters=jnp.array([0, 0, 1, 1, 2, 2]))
    assert pairs.n_examples == 3 and abs(pairs.square - whole.square) < 1e-5 * whole.square


def test_on_many_devices():
    """Examples over a mapped axis give the numbers of the whole batch, weights included."""
    f, x, weight = network(), points(16), jnp.ones(16).at[-3:].set(0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(x, weight):
        d = lie_derivative(f, BOTH, x, weight=weight, axis_name="data")
        return d.square, d.square_stderr

    got = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P()))(x, weight)
    whole = derivative(f, BOTH, x, weight=weight)
    np.testing.assert_allclose(got, (whole.square, whole.square_stderr), rtol=1e-4)


def test_padded_graphs_are_counted_by_example():
    """Atoms of two molecules in one list, the last one padding: as if each molecule were its own batch entry."""
    x, segments = points(2).reshape(6, 3), jnp.array([0, 0, 0, 1, 1, 1, 2])
    sym = es.Symmetry(es.so3.haar(2), es.segmented(es.vectors), es.segmented(es.vectors))
    d = derivative(
        jnp.tanh, sym, jnp.concatenate([x, jnp.ones((1, 3))]), segments=segments, weight=jnp.array([1.0, 1, 0])
    )
    np.testing.assert_allclose(d.per_example[:2], derivative(jnp.tanh, BOTH, points(2)).per_example, rtol=1e-5)
    assert d.n_examples == 2
    with pytest.raises(ValueError, match="how many examples"):
        lie_derivative(jnp.tanh, sym, x, segments=segments[:6])


def test_under_vmap_over_models():
    scales = jnp.array([0.5, 2.0])
    many = jax.vmap(lambda s: lie_derivative(lambda x: jnp.tanh(s * x), BOTH, points()).square)(scales)
    one = [derivative(lambda x, s=s: jnp.tanh(s * x), BOTH, points()).square for s in scales]
    np.testing.assert_allclose(many, jnp.stack(one), rtol=1e-5)


@pytest.mark.parametrize("act", [es.grid, es.chain(es.grid, es.trivial), es.segmented(es.grid)], ids=["a", "b", "c"])
def test_grids_have_no_lie_derivative(act):
    x = jnp.ones((2, 4, 4, 4))
    sym = es.Symmetry(es.so3.haar(2), act, act)
    with pytest.raises(ValueError, match=r"no Lie derivative.*input.*grid"):
        lie_derivative(lambda x: x, sym, x)
    with pytest.raises(ValueError, match=r"no Lie derivative.*input.*grid"):
        jax.jit(lambda x: lie_derivative(lambda x: x, sym, x))(x)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="2 layers have 3 interfaces, got 2"):
        layerwise([jnp.tanh, jnp.tanh], [es.vectors] * 2, es.so3, points())
    with pytest.raises(ValueError, match="not finite for 1 examples, the first at index 2"):
        lie_derivative(lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), BOTH, points().at[2].set(0))
    with pytest.raises(ValueError, match="one kind"):
        sum(layerwise([jnp.tanh], [es.vectors] * 2, group, points()) for group in (es.so3, es.o3))
    record = layerwise([jnp.tanh, jnp.tanh], [es.vectors] * 3, es.so3, points()).record()
    assert record["group"] == "so3" and len(record["shares"]) == 2 and isinstance(record["square"], float)
