"""The steerable U-Net commutes with the cube's rotations to rounding, layer by layer, and nearly with all others."""

import functools
import itertools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import block_diag

import equiscale as es
from equiscale import rotations
from equiscale.data.voxels import Grid, voxelise
from equiscale.models.steerable_unet import PRESETS, Gate, Norm, SteerableUNet, kernel_basis, pool, upsample
from equiscale.models.voxel_unet import VoxelUNet

# Compiling takes most of the time here, so let it optimise little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SMALL = {"n_elements": 2, "multiplicities": (3, 2, 1), "n_levels": 2, "kernel_size": 3}
CUBE = np.concatenate([rotations.cube(), -rotations.cube()])  # 24 rotations, and then each with inversion
SO3, O3 = (e3nn.Irreps.spherical_harmonics(2, sign) for sign in (1, -1))


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def shapes_of(model):
    x = jax.ShapeDtypeStruct((1, model.n_elements, 8, 8, 8), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x)


def random_params(model, seed=0, dtype=np.float32):
    """Random norms and biases too, which start at 1 and 0; nothing is compiled."""
    draw = np.random.default_rng(seed).normal

    def fill(path, p):
        offset, size = {"weights": (0, 0.1), "scale": (1, 0.3), "bias": (0, 0.3)}[path[-1].key]
        return jnp.asarray(offset + size * draw(size=p.shape), dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes_of(model))


def relative_error(actual, expected):
    """The largest over the leading axis, which holds group elements."""
    axes = tuple(range(1, expected.ndim))
    return np.max(np.sqrt(np.sum((np.asarray(actual) - expected) ** 2, axes) / np.sum(expected**2, axes)))


def move(g, x, first=0):
    """v'[g p] = v[p] for the three axes of `x` from `first` on, g a signed permutation."""
    source = np.argmax(np.abs(g), axis=1)
    x = np.moveaxis(x, [first + i for i in source], [first, first + 1, first + 2])
    return np.flip(x, [first + i for i in range(3) if g[i, source[i]] < 0])


@functools.cache
def wigner(degree):
    """The matrices D(g) of the cube's rotations, float64 `[24, 2 l + 1, 2 l + 1]`, by way of Y(g r) = D(g) Y(r)."""
    r = np.random.default_rng(0).normal(size=(10, 3))
    with jax.enable_x64(True):
        turned = jnp.einsum("gij,aj->gai", rotations.cube(), r)
        harmonics = np.asarray(e3nn.spherical_harmonics(f"{degree}e", turned, True).array)
    return np.linalg.lstsq(harmonics[0], np.concatenate(harmonics, 1))[0].T.reshape(24, 2 * degree + 1, -1)


def turned_fields(x, irreps):
    """A field `[x, y, z, irreps]` turned by each of `CUBE`: its voxels moved, their irreps times p(g) D(g)."""
    fields = []
    for i, g in enumerate(CUBE):
        blocks = [wigner(ir.l)[i % 24] * ir.p ** (i // 24) for mul, ir in irreps for _ in range(mul)]
        fields.append(move(g, np.asarray(x) @ block_diag(*blocks).T))
    return np.stack(fields)


@pytest.mark.parametrize("harmonics", [SO3, O3], ids=["SO3", "O3"])
@pytest.mark.parametrize("size", [3, 5])
def test_kernels_are_steerable_independent_and_of_unit_norm(size, harmonics):
    for (_, a), (_, b) in itertools.product(harmonics, harmonics):
        basis = kernel_basis(a, b, size, harmonics)
        paths = sum(b in a * ir for _, ir in harmonics)
        assert basis.shape == ((size - 1) * paths + (a == b), size, size, size, a.dim, b.dim)
        if not paths:
            continue
        # A weight whose kernel vanished or repeated another on the lattice would be wasted.
        assert np.linalg.matrix_rank(basis.reshape(len(basis), -1), tol=1e-3) == len(basis)
        np.testing.assert_allclose(np.sum(basis**2, (1, 2, 3, 4)).mean(-1), 1, rtol=1e-12)
        for i, g in enumerate(CUBE if harmonics == O3 else CUBE[:24]):
            sign = a.p * b.p if i >= 24 else 1
            turned = sign * np.einsum("kxyzio,ji,po->kxyzjp", basis, wigner(a.l)[i % 24], wigner(b.l)[i % 24])
            np.testing.assert_allclose(move(g, turned, 1), basis, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
def test_kernels_are_radial_functions_times_spherical_harmonics_of_e3nn(size, x64):
    r = np.stack(np.meshgrid(*[np.arange(size) - size // 2] * 3, indexing="ij"), -1).astype(float)
    settings = {"basis": "smooth_finite", "start_zero": False, "end_zero": True, "number": size - 1}
    radial = e3nn.soft_one_hot_linspace(np.linalg.norm(r, axis=-1), start=1.0, end=size // 2 + 1.0, **settings)
    for _, ir in SO3:
        y = e3nn.spherical_harmonics(f"{ir.l}e", r, True).array
        expected = jnp.einsum("xyzk,xyzm->kxyzm", radial, y)
        expected /= jnp.sqrt(jnp.sum(expected**2, (1, 2, 3, 4), keepdims=True) / ir.dim)
        basis = kernel_basis(SO3[0].ir, ir, size, SO3)[: size - 1, ..., 0, :]
        np.testing.assert_allclose(basis, expected, atol=1e-12)


def test_kernels_can_first_be_made_inside_a_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    model, x = SteerableUNet(**{**SMALL, "n_levels": 1}), normal(0, 2, 2, 4, 4, 4)
    params, spec = random_params(model), jax.sharding.PartitionSpec("data")
    kernel_basis.cache_clear()
    with jax.set_mesh(mesh):
        y = jit(jax.shard_map(lambda x: model.apply(params, x), in_specs=spec, out_specs=spec))(x)
    np.testing.assert_allclose(y, jit(model.apply)(params, x), atol=1e-5)


@pytest.mark.parametrize("resample", [pool, upsample])
def test_resampling_commutes_with_the_cube_and_inversion(resample):
    x = np.asarray(normal(0, 6, 6, 6, 3))
    turned = resample(jnp.stack([move(g, x) for g in CUBE]))
    np.testing.assert_allclose(turned, np.stack([move(g, turned[0]) for g in CUBE]), atol=1e-6)


def test_resampling_keeps_linear_fields_in_place():
    """Voxel centres of a grid twice as fine lie at (i - 1/2) / 2; linear fields are exact but next to the faces."""
    coarse, fine = np.arange(6.0), (np.arange(12) - 0.5) / 2
    field, finer = (jnp.stack(jnp.meshgrid(a, a, a, indexing="ij"), -1)[None] for a in (coarse, fine))
    np.testing.assert_allclose(pool(finer), field, atol=1e-6)
    np.testing.assert_allclose(upsample(field)[:, 1:-1, 1:-1, 1:-1], finer[:, 1:-1, 1:-1, 1:-1], atol=1e-6)


def test_gate_is_that_of_e3nn_with_dropout_of_whole_irreps():
    x = e3nn.IrrepsArray("6x0e + 2x1o + 1x2e", normal(0, 1, 2, 2, 2, 17))
    ours = Gate(0.0).apply({}, x, False)
    theirs = e3nn.gate(x, even_act=jax.nn.silu, normalize_act=False)
    assert ours.irreps == theirs.irreps
    np.testing.assert_allclose(ours.array, theirs.array, rtol=1e-6)
    ones = e3nn.IrrepsArray("5x0e + 3x1e", jnp.ones((1, 4, 4, 4, 14)))
    kept = Gate(0.5).apply({}, ones, True, rngs={"dropout": jax.random.key(0)}).chunks[1]
    assert jnp.all(jnp.ptp(kept, axis=-1) == 0)
    np.testing.assert_allclose(jnp.mean(kept != 0), 0.5, atol=0.15)


def test_norm_gives_every_irrep_of_every_example_unit_mean_square():
    x = e3nn.IrrepsArray("2x0e + 2x1e", 3 + np.arange(1, 9) * normal(0, 2, 8, 8, 8, 8))
    y = Norm().apply({"params": {"scale": jnp.ones(4), "bias": jnp.zeros(2)}}, x)
    np.testing.assert_allclose(jnp.mean(y.array[..., :2], (1, 2, 3)), 0, atol=1e-5)
    for chunk in y.chunks:
        np.testing.assert_allclose(jnp.mean(chunk**2, (1, 2, 3, 5)), 1, rtol=1e-4)


@pytest.mark.parametrize("fields, side", [({"kernel_size": 5, "multiplicities": (4, 2)}, 6), ({"n_levels": 3}, 8)])
def test_cube_rotations_in_float32(fields, side):
    model, x = SteerableUNet(**{**SMALL, **fields}), np.asarray(normal(0, 2, side, side, side))
    outputs = np.asarray(jit(model.apply)(random_params(model), np.stack([move(g, x, 1) for g in CUBE[:24]])))
    assert relative_error(outputs, np.stack([move(g, outputs[0], 1) for g in CUBE[:24]])) <= 1e-5


@pytest.mark.parametrize("parity", [False, True], ids=["SO3", "O3"])
def test_every_layer_transforms_by_its_irreps_in_float64_and_inversion_only_with_parity(parity, x64):
    model, x = SteerableUNet(**SMALL, parity=parity), np.asarray(normal(0, 2, 6, 6, 6, dtype=np.float64))
    params = random_params(model, dtype=np.float64)
    apply = jit(lambda x: model.apply(params, x, capture_intermediates=True))
    outputs, state = apply(np.stack([move(g, x, 1) for g in CUBE]))

    (latent,) = state["intermediates"].pop("latent")
    fields = {"latent": e3nn.IrrepsArray(model.irreps(1), jnp.moveaxis(latent, 1, -1))}
    fields["output"] = e3nn.IrrepsArray("2x0e", jnp.moveaxis(outputs, 1, -1))
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda leaf: isinstance(leaf, e3nn.IrrepsArray))
    fields |= {jax.tree_util.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, e3nn.IrrepsArray)}
    assert len(fields) == 2 + 3 * 7 + 1, "three blocks with twice three layers, and the head"
    inverted = {}
    for name, field in fields.items():
        expected = turned_fields(field.array[0], field.irreps)
        assert relative_error(field.array[:24], expected[:24]) <= 1e-12, name
        inverted[name] = relative_error(field.array[24:], expected[24:])
    # Three gradients can be multiplied to a pseudoscalar, unless vectors are known to be odd.
    assert max(inverted.values()) <= 1e-12 if parity else inverted["output"] > 0.1


def rotation_error(f, grid, positions, species, turns):
    """Percent by which `f`, of densities turned before they are voxelised, is off from turning with the molecule.

    The predictions are smeared with a Gaussian at the turned atoms, sum_v f(v) exp(-|v - g r_a|^2 / w^2), which an
    equivariant `f` leaves as they are for any g; their standard deviation over g in percent of their root mean
    square is returned, and that of the squared error of f against the density, in percent of its mean.
    """
    turned = jnp.einsum("gij,aj->gai", turns, positions)
    clean = jax.vmap(lambda p: voxelise(p, species, grid))(turned)
    predicted = f(clean)
    offsets = jnp.asarray(grid.axis, jnp.float32) - turned[..., None]
    x, y, z = jnp.moveaxis(jnp.exp(-((offsets / (0.93 * grid.radius)) ** 2)), 2, 0)
    pulled_back = jnp.einsum("gcxyz,gax,gay,gaz->gca", predicted, x, y, z)
    squares = jnp.sum((predicted - clean) ** 2, (1, 2, 3, 4))
    spread = jnp.sqrt(jnp.mean(jnp.var(pulled_back, 0)) / jnp.mean(pulled_back**2))
    return 100 * float(spread), 100 * float(jnp.std(squares) / jnp.maximum(jnp.mean(squares), 1e-9))


def test_general_rotations_change_little(record_property):
    grid = Grid(16, 0.5, ("C", "O"), radius=1.0)  # atoms of the published width in voxels
    positions, species = normal(1, 6, 3), jnp.array([6, 6, 6, 6, 8, 8])
    turns = jax.vmap(es.so3.random)(jax.random.split(jax.random.key(0), 8))
    error = functools.partial(rotation_error, grid=grid, positions=positions, species=species, turns=turns)
    assert max(error(lambda x: x)) < 0.1, "what the measure itself adds"
    steerable = SteerableUNet(**{**SMALL, "multiplicities": (6, 3, 1)})
    levels = {"channel_multipliers": (1, 2), "attention_levels": (False, False)}
    other = VoxelUNet(2, n_channels=8, n_groups=8, n_blocks=1, dropout=0.0, **levels)
    percent = {}
    for name, model in (("steerable", steerable), ("voxel", other)):
        params = jit(model.init)(jax.random.key(0), jnp.zeros((1, *grid.shape)))
        percent[name] = error(jit(functools.partial(model.apply, params)))
        record_property(f"{name}: percent off under general rotations, squared error's spread", percent[name])
    assert percent["steerable"][0] < 15 and percent["steerable"][0] < percent["voxel"][0] / 3


@pytest.mark.parametrize(
    "name, parameters",
    [("cpu_0.02M", 21_502), ("cpu_0.05M", 52_380), ("0.5M", 497_037), ("2M", 1_981_124), ("10M", 9_927_560)],
)
def test_sizes(name, parameters):
    model = SteerableUNet(n_elements=8, **PRESETS[name])
    assert sum(p.size for p in jax.tree.leaves(shapes_of(model))) == parameters
    assert float(f"{parameters / 1e6:.1g}") == float(name.removeprefix("cpu_").removesuffix("M"))


@pytest.mark.slow  # it is trained in test_denoise_voxels
def test_it_starts_small_and_learns_to_denoise():
    grid = Grid(8, 1.0, ("C", "H"), radius=1.0)
    positions, species = normal(0, 4, 3, 3), jnp.array([6, 1, 1])
    clean = jax.vmap(lambda p: voxelise(p, species, grid))(positions)
    model, optimiser = SteerableUNet(**SMALL, dropout=0.05), optax.adam(1e-2)
    params = jit(model.init)(jax.random.key(0), clean)["params"]

    @jit
    def step(params, moments, key):
        def loss(params):
            noisy = clean + 0.1 * jax.random.normal(key, clean.shape)
            prediction = model.apply({"params": params}, noisy, train=True, rngs={"dropout": key})
            return jnp.sum((prediction - clean) ** 2) / len(clean)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimiser.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, value

    moments, losses = optimiser.init(params), []
    for key in jax.random.split(jax.random.key(1), 60):
        params, moments, value = step(params, moments, key)
        losses.append(value)
    nothing = jnp.sum(clean**2) / len(clean)  # the loss of predicting zero
    assert 1e-5 < losses[0] / clean[0].size < 1e-2, "mean square of an untrained output"
    assert np.mean(losses[-5:]) < 0.5 * nothing < 0.5 * losses[0], (losses, nothing)


@pytest.fixture(scope="module")
def small():
    """A small model, parameters, an input and its output."""
    model, x = SteerableUNet(**SMALL, dropout=0.5), normal(0, 2, 2, 4, 4, 4)
    params = random_params(model)
    return model, params, x, jit(model.apply)(params, x)


def gradient(model, params, x):
    return jit(jax.grad(lambda params: jnp.sum(model.apply(params, x) ** 3)))(params)


def test_every_weight_is_used(small):
    for g in jax.tree.leaves(gradient(*small[:3])):
        assert jnp.all(jnp.isfinite(g)) and jnp.all(g != 0)


def test_remat_changes_no_gradient():
    model, x = SteerableUNet(**{**SMALL, "n_levels": 1}), normal(0, 1, 2, 2, 2, 2)
    params = random_params(model)
    expected, actual = (gradient(model.clone(remat=remat), params, x) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * jnp.max(jnp.abs(b))), actual, expected)


def test_half_precision_returns_float32_close_to_it(small):
    model, params, x, expected = small
    half = jit(model.clone(dtype=jnp.bfloat16).apply)(params, x)
    assert half.dtype == expected.dtype == jnp.float32
    np.testing.assert_allclose(half, expected, atol=0.1 * jnp.max(jnp.abs(expected)))


@pytest.mark.parametrize(
    "fields, shape, message",
    [
        ({}, (1, 2, 5, 5, 5), "side 5 cannot be halved 1 times: use a multiple of 2, for instance 6"),
        ({}, (1, 2, 4, 4, 6), "expected a cubic grid"),
        ({}, (1, 5, 4, 4, 4), "n_elements 2, got 5"),
        ({"kernel_size": 4}, (1, 2, 4, 4, 4), "kernel_size 4 must be 3 or 5"),
        ({"multiplicities": (4, 0, 1)}, (1, 2, 4, 4, 4), "must be positive"),
    ],
)
def test_errors_name_the_offending_value(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(SteerableUNet(**{**SMALL, **fields}).init, jax.random.key(0), jnp.zeros(shape))
