"""The VoxMol U-Net is the published one, and breaks cube symmetry exactly where it says."""

import functools
import itertools
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.models.voxel_unet import PRESETS, VoxelUNet

# Compiling takes most of the time here, so let it optimise little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SMALL = {
    "n_elements": 3,
    "n_channels": 4,
    "n_groups": 2,
    "channel_multipliers": (1, 2),
    "attention_levels": (False, True),
    "n_blocks": 1,
}


def grid(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def count(model):
    x = jnp.zeros((1, model.n_elements, 16, 16, 16))
    return sum(p.size for p in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), x)))


def random_params(model):
    """Parameters of the size PyTorch would draw, without compiling `init`."""
    x = jax.ShapeDtypeStruct((1, model.n_elements, 4, 4, 4), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    draw = np.random.default_rng(0).uniform

    def fill(path, p):
        offset = 1 if path[-1].key == "scale" else 0
        return (offset + draw(-1, 1, p.shape) / np.sqrt(p.size / p.shape[-1] + 1)).astype(p.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope="module")
def small():
    """A small model, parameters, an input and its output."""
    model, x = VoxelUNet(**SMALL), grid(0, 2, 3, 4, 4, 4)
    params = random_params(model)
    return model, params, x, jit(model.apply)(params, x)


@pytest.mark.parametrize("name, published", [("tiny", 6_980_624), ("small", 27_893_144), ("full", 111_513_896)])
def test_published_sizes(name, published):
    assert count(VoxelUNet(n_elements=8, **PRESETS[name])) == published
    # An element costs its 27 input and 27 output kernel entries per channel and one output bias.
    each = 54 * PRESETS[name]["n_channels"] + 1
    assert count(VoxelUNet(n_elements=5, **PRESETS[name])) == published - 3 * each


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("cpu_")])
def test_cpu_presets_are_named_by_their_size(name):
    millions = count(VoxelUNet(n_elements=5, **PRESETS[name])) / 1e6
    assert float(f"{millions:.1g}") == float(name.removeprefix("cpu_").removesuffix("M"))


def test_head_gain_multiplies_what_an_untrained_model_predicts_and_nothing_else():
    x, key = grid(0, 1, 3, 4, 4, 4), jax.random.key(1)
    whole, small = (VoxelUNet(**SMALL, head_gain=gain) for gain in (1.0, 0.1))
    start, small_start = (jit(model.init)(key, x) for model in (whole, small))
    np.testing.assert_allclose(jit(small.apply)(small_start, x), 0.1 * jit(whole.apply)(start, x), atol=1e-7)
    heads = [variables["params"].pop("head") for variables in (start, small_start)]
    assert jnp.abs(heads[0]["kernel"]).max() > 0
    jax.tree.map(np.testing.assert_array_equal, start, small_start)


def test_output_and_latent_are_those_of_the_published_code():
    path = Path(__file__).parents[3] / "shared/reference/voxmol_unet_tiny.npz"
    if not path.exists():
        pytest.skip(f"the reference case {path.name} is not next to this checkout")
    reference = np.load(path)
    rename = {
        "grid_projection": "stem",
        "final": "head",
        "middle.res1": "middle_1.res",
        "middle.attn": "middle_1.attention",
        "middle.res2": "middle_2.res",
        "attn": "attention",
        ".conv.": ".",
    }
    params = {}
    for name in reference.files:
        if not name.startswith("param/"):
            continue
        array = reference[name]
        ours = name.removeprefix("param/")
        for old, new in rename.items():
            ours = ours.replace(old, new)
        module, index, *rest = ours.split(".")
        ours = [f"{module}_{index}", *rest] if module in ("down", "up") else [module, index, *rest]
        if ours[-1] == "weight":
            ours[-1] = "scale" if array.ndim == 1 else "kernel"
            transposed = array.ndim == 5 and array.shape[2] == 4
            array = array.transpose({1: (0,), 2: (1, 0), 5: (2, 3, 4, *((0, 1) if transposed else (1, 0)))}[array.ndim])
        params[tuple(ours)] = jnp.asarray(array)

    model = VoxelUNet(
        n_elements=int(reference["n_elements"]),
        n_channels=int(reference["n_channels"]),
        n_groups=int(reference["n_groups"]),
    )
    x = jnp.asarray(reference["input"], jnp.float32)
    variables = {"params": flax.traverse_util.unflatten_dict(params)}
    expected = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_equal(theirs.shape, ours.shape), expected, variables["params"])

    apply = jit(lambda variables, x: model.apply(variables, x, mutable="intermediates"))
    output, state = apply(variables, x)
    (latent,) = state["intermediates"]["latent"]
    np.testing.assert_allclose(output, reference["output"], atol=1e-5)
    np.testing.assert_allclose(latent, reference["latent"], atol=1e-5)


def cube_rotations():
    """The 24 as signed permutations of the axes: `(axes, flips)`."""
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((0, 1), repeat=3):
            if np.linalg.det(np.eye(3)[list(axes)]) * (-1) ** sum(flips) > 0:
                yield axes, flips


def turn(x, rotation, first):
    """Turns the three axes of `x` from `first` on."""
    axes, flips = rotation
    order = (*range(first), *(first + a for a in axes), *range(first + 3, x.ndim))
    return np.flip(np.transpose(x, order), [first + i for i in range(3) if flips[i]])


@pytest.mark.parametrize("downsample", ["published", "symmetric"])
def test_symmetric_kernels_make_the_symmetric_model_commute_with_the_cube_and_not_the_published_one(downsample):
    rotations = list(cube_rotations())
    assert len(rotations) == 24
    model, x = VoxelUNet(**SMALL, downsample=downsample), np.asarray(grid(0, 1, 3, 4, 4, 4))

    def symmetrise(p):  # divided so that entries keep their size
        return p if p.ndim != 5 else sum(turn(p, r, 0) for r in rotations) / np.sqrt(len(rotations))

    params = jax.tree.map(symmetrise, random_params(model))
    outputs = np.asarray(jit(model.apply)(params, np.concatenate([turn(x, r, 2) for r in rotations])))
    identity = rotations.index(((0, 1, 2), (0, 0, 0)))
    expected = np.concatenate([turn(outputs[[identity]], r, 2) for r in rotations])
    error = np.max(np.abs(outputs - expected)) / np.std(expected)
    assert error < 1e-4 if downsample == "symmetric" else error > 1e-2


def gradient(model, params, x):
    return jit(jax.grad(lambda params: jnp.sum(model.apply(params, x) ** 2)))(params)


def test_every_parameter_is_used(small):
    model, params, x, _ = small
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(gradient(model, params, x)))


def test_remat_changes_no_gradient(x64):
    model = VoxelUNet(3, 4, 2, channel_multipliers=(1,), attention_levels=(True,), n_blocks=1)
    params, x = random_params(model), grid(0, 2, 3, 2, 2, 2).astype(jnp.float64)
    params = jax.tree.map(lambda p: p.astype(np.float64), params)
    expected = gradient(model, params, x)
    actual = gradient(model.clone(remat=True), params, x)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10 * jnp.max(jnp.abs(b)))


def test_parameters_start_as_in_pytorch():
    model = VoxelUNet(3, 4, 2, channel_multipliers=(1,), attention_levels=(False,), n_blocks=1)
    params = jit(model.init)(jax.random.key(0), jnp.zeros((1, 3, 2, 2, 2)))["params"]
    layers = {path[:-1] for path in flax.traverse_util.flatten_dict(params) if path[-1] == "kernel"}
    assert len(layers) == 16
    for path in layers:
        layer = functools.reduce(lambda tree, name: tree[name], path, params)
        bound = 1 / np.sqrt(np.prod(layer["kernel"].shape[:-1]))
        assert 0.8 * bound < jnp.max(jnp.abs(layer["kernel"])) <= bound
        assert 0 < jnp.max(jnp.abs(layer["bias"])) <= bound


def test_vmap_over_inputs_is_the_batch(small):
    model, params, x, expected = small
    mapped = jit(jax.vmap(lambda x: model.apply(params, x)))(x[:, None])
    np.testing.assert_allclose(mapped[:, 0], expected, atol=1e-5)


def test_dropout_acts_in_training_only(small):
    model, params, x, expected = small
    train = jit(lambda key: model.apply(params, x, train=True, rngs={"dropout": key}))
    outputs = [train(jax.random.key(i)) for i in range(2)]
    assert jnp.any(outputs[0] != outputs[1])
    still = jit(model.clone(dropout=0.9).apply)(params, x)
    np.testing.assert_array_equal(still, expected)


def test_dtypes(small):
    model, params, x, expected = small
    half = jit(model.clone(dtype=jnp.bfloat16).apply)(params, x)
    assert half.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
    np.testing.assert_allclose(half.astype(jnp.float32), expected, atol=0.1 * jnp.max(jnp.abs(expected)))
    with jax.enable_x64(True):
        double = jit(model.apply)(params, jnp.asarray(np.asarray(x), jnp.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, atol=1e-5)


@pytest.mark.parametrize(
    "fields, shape, message",
    [
        ({}, (1, 3, 5, 5, 5), "side 5 cannot be halved 1 times: use a multiple of 2, for instance 6"),
        ({}, (1, 3, 4, 4, 6), "expected a cubic grid"),
        ({}, (3, 4, 4, 4), "expected a cubic grid"),
        ({}, (1, 5, 4, 4, 4), "n_elements 3, got 5"),
        ({"n_groups": 3}, (1, 3, 4, 4, 4), "n_groups 3 does not divide the 4 channels of level 0"),
        ({"attention_levels": (True,)}, (1, 3, 4, 4, 4), "one entry for each level"),
        ({"downsample": "mean"}, (1, 3, 4, 4, 4), "got 'mean'"),
    ],
)
def test_errors_name_the_offending_value(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(VoxelUNet(**{**SMALL, **fields}).init, jax.random.key(0), jnp.zeros(shape))
