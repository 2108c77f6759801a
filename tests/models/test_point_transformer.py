"""The point transformer takes atoms in any order and padding of any kind, and knows of no other symmetry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from configs.denoise_points import SAME_SIZE
from equiscale.models.point_transformer import PRESETS, PointTransformer
from equiscale.models.voxel_unet import PRESETS as UNETS
from equiscale.models.voxel_unet import VoxelUNet

MODEL = PointTransformer(n_elements=3, width=16, heads=2, layers=2)


def count(model, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return sum(p.size for p in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), *inputs)))


@pytest.fixture(scope="module")
def small():
    """Two molecules of 4 and 6 atoms, parameters, and what comes out."""
    rng = np.random.default_rng(0)
    positions = jnp.asarray(rng.normal(size=(2, 6, 3)), jnp.float32)
    elements = jnp.array([[1, 2, 3, 1, 0, 0], [2, 2, 1, 3, 3, 1]])
    params = jax.jit(MODEL.init)(jax.random.key(0), positions, elements)
    apply = jax.jit(MODEL.apply)
    return apply, params, positions, elements, apply(params, positions, elements)


@pytest.mark.parametrize("unet, name", SAME_SIZE.items())
def test_presets_are_named_by_their_size_which_is_a_unets(unet, name):
    points = PointTransformer(n_elements=8, **PRESETS[name])
    size = count(points, ((1, 2, 3), jnp.float32), ((1, 2), jnp.int32))
    assert size / 1e6 == pytest.approx(float(name.removeprefix("cpu_").removesuffix("M")), rel=0.2)
    voxels = VoxelUNet(n_elements=8, **UNETS[unet])
    assert size == pytest.approx(count(voxels, ((1, 8, 16, 16, 16), jnp.float32)), rel=0.1)
    assert set(SAME_SIZE) == set(UNETS) and set(SAME_SIZE.values()) == set(PRESETS)


def test_atoms_may_be_listed_in_any_order(small):
    apply, params, positions, elements, expected = small
    order = jnp.array([3, 5, 0, 2, 4, 1])
    turned = apply(params, positions[:, order], elements[:, order])
    np.testing.assert_allclose(turned, expected[:, order], atol=1e-5)


def test_padding_changes_nothing_and_comes_out_as_zero(small):
    apply, params, positions, elements, expected = small
    assert jnp.all(expected[0, 4:] == 0) and jnp.all(expected[1] != 0)
    alone = apply(params, positions[:1, :4], elements[:1, :4])
    np.testing.assert_allclose(alone, expected[:1, :4], atol=1e-5)
    anything = positions.at[0, 4].set(jnp.nan).at[0, 5].set(1e6)
    np.testing.assert_array_equal(apply(params, anything, elements), expected)

    def loss(positions):
        return jnp.square(apply(params, positions, elements)).sum()

    slope = jax.grad(loss)(anything)
    assert jnp.all(slope[0, 4:] == 0) and jnp.all(slope[0, :4] != 0) and jnp.all(jnp.isfinite(slope))


def test_molecules_of_a_batch_do_not_see_each_other(small):
    apply, params, positions, elements, expected = small
    other = apply(params, positions.at[0].add(1.0), elements)
    np.testing.assert_array_equal(other[1], expected[1])
    assert not np.allclose(other[0, :4], expected[0, :4], atol=1e-3)


@pytest.mark.parametrize("group, action", [("rotations", es.vectors), ("translations", es.translate)])
def test_nothing_in_it_is_equivariant_to_motions(small, group, action):
    apply, params, positions, elements, _ = small
    measure = es.octahedral.enumerate() if group == "rotations" else es.translations.normal(8, 1.0)
    sym = es.Symmetry(measure, (action, es.trivial), action)
    d = es.decompose(
        lambda x: apply(params, *x), sym, (positions, elements), positions, key=jax.random.key(0), mask=elements > 0
    )
    assert d.percent > 5


def test_every_parameter_is_used_and_remat_changes_no_gradient(small):
    _, params, positions, elements, _ = small

    def gradient(model):
        return jax.jit(jax.grad(lambda p: jnp.square(model.apply(p, positions, elements)).sum()))(params)

    plain, again = gradient(MODEL), gradient(MODEL.clone(remat=True))
    for path, slope in jax.tree_util.tree_leaves_with_path(plain):
        # A bias of the keys shifts all scores of a query alike, which the softmax takes out.
        assert jnp.any(slope != 0) or "key" in jax.tree_util.keystr(path), path
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, again)


def test_dropout_acts_in_training_only(small):
    _, params, positions, elements, expected = small
    model = MODEL.clone(dropout=0.5)
    train = jax.jit(lambda key: model.apply(params, positions, elements, train=True, rngs={"dropout": key}))
    assert jnp.any(train(jax.random.key(0)) != train(jax.random.key(1)))
    np.testing.assert_allclose(model.apply(params, positions, elements), expected, atol=1e-5)


def test_half_precision_inside_is_float32_outside(small):
    _, params, positions, elements, expected = small
    half = MODEL.clone(dtype=jnp.bfloat16).apply(params, positions, elements)
    assert half.dtype == jnp.float32 and not np.allclose(half, expected, atol=1e-5)
    np.testing.assert_allclose(half, expected, atol=0.1)


@pytest.mark.parametrize(
    "model, shapes, words",
    [
        (MODEL, ((2, 4, 2), (2, 4)), r"got \[2, 4, 2\] and \[2, 4\]"),
        (MODEL, ((4, 3), (4,)), r"got \[4, 3\] and \[4\]"),
        (MODEL.clone(heads=3), ((2, 4, 3), (2, 4)), "heads 3 do not divide the width 16"),
    ],
)
def test_errors_name_the_offending_value(model, shapes, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shapes[0]), jnp.ones(shapes[1], int))
