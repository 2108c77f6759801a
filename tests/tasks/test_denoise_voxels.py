import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.data.molecules import from_records
from equiscale.data.voxels import Grid
from equiscale.models.voxel_unet import Conv, VoxelUNet
from equiscale.tasks import denoise_voxels as task_module
from equiscale.tasks import voxels
from equiscale.tasks.augmentations import AUGMENTATIONS

GRID = Grid(8, 1.0, ("C", "H"), radius=1.0)


def molecules(n=5):
    """Carbon and two hydrogens in random places near the origin: shapes for tests, no chemistry."""
    rng = np.random.default_rng(0)
    return from_records([(f"random {i}", ["C", "H", "H"], rng.normal(size=(3, 3))) for i in range(n)], "random points")


def make(augmentation="cube", downsample="published", **changes):
    data = task_module.structures(molecules())
    levels = {"channel_multipliers": (1, 2), "attention_levels": (False, False)}
    model = VoxelUNet(2, n_channels=4, n_groups=2, n_blocks=1, dropout=0, downsample=downsample, **levels)
    settings = {"model": model, "noise_sigma": 0.3, "augmentation": augmentation, "evaluation_batch": 2, "seed": 0}
    return task_module.make_task(GRID, [data], data, **settings | changes)


class OneConvolution(nn.Module):
    """The least that is a model of grids and not equivariant: compiled in a moment."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return jnp.moveaxis(Conv(2)(jnp.moveaxis(x, 1, -1)), -1, 1)


def test_the_ragged_tail_of_validation_counts_each_molecule_once():
    tasks = [make(evaluation_batch=size, model=OneConvolution()) for size in (2, 5)]
    params = jax.jit(tasks[0].init)(jax.random.key(0))
    results = [sum(jax.jit(task.evaluate)(params, b) for b in task.validation) for task in tasks]
    assert [len(task.validation) for task in tasks] == [3, 1]
    assert results[0].n_examples == results[1].n_examples == 5
    np.testing.assert_allclose(results[0].percent, results[1].percent, rtol=1e-5)
    np.testing.assert_allclose(results[0].percent_stderr, results[1].percent_stderr, rtol=1e-4)


def test_evaluation_turns_the_noisy_grid_and_an_equivariant_denoiser_has_no_error():
    """A local isotropic filter commutes with the cube: below the floor up to its own rounding."""

    def blur(noisy):
        padded = jnp.pad(noisy, ((0, 0), (0, 0), *[(1, 1)] * 3))
        shifts = [padded[:, :, 1:-1, 1:-1, 1:-1]]
        for axis in (2, 3, 4):
            for by in (-1, 1):
                shifts.append(jnp.roll(padded, by, axis)[:, :, 1:-1, 1:-1, 1:-1])
        return sum(shifts) / 7

    positions = task_module.structures(molecules())
    clean = task_module.densities(GRID, positions.positions, positions.species)
    noisy = task_module.add_noise(clean, 0.3, jax.random.key(0), positions.ids)
    d = es.decompose(blur, task_module.SYMMETRY, noisy, clean, key=jax.random.key(0))
    assert d.percent < 1e-10


@pytest.mark.parametrize("augmentation, turned", [(name, name != "none") for name in AUGMENTATIONS])
def test_augmentation_turns_training_molecules_rigidly(augmentation, turned):
    task = make(augmentation, noise_sigma=0.0)
    (train,) = task.train
    _, clean = task.sample(jax.tree.map(lambda a: a[jnp.array([1, 1, 1, 1])], train), jax.random.key(0))
    reference = task_module.densities(GRID, train.positions[:2], train.species[:2])[1]
    assert np.allclose(clean, reference, atol=1e-6) != turned
    if augmentation in ("cube", "paper16"):
        orbit = jax.vmap(es.grid, (0, None))(es.octahedral.enumerate().draw(None)[0], reference)
        for grid in clean:
            assert jnp.abs(orbit - grid).max((1, 2, 3, 4)).min() < 1e-5, "turned coordinates are a turned grid"


def test_translation_moves_a_whole_molecule_within_its_bound():
    task = make("none", noise_sigma=0.0, translation=0.5)
    (train,) = task.train
    _, clean = task.sample(jax.tree.map(lambda a: a[jnp.zeros(16, int)], train), jax.random.key(0))
    axis = jnp.asarray(GRID.axis)

    def centroid(density):
        return (
            jnp.array([(density.sum(0).sum(other) * axis).sum() for other in ((1, 2), (0, 2), (0, 1))]) / density.sum()
        )

    still = centroid(task_module.densities(GRID, train.positions[:1], train.species[:1])[0])
    moved = jax.vmap(centroid)(clean) - still
    assert 0.3 < jnp.abs(moved).max() < 0.55 and jnp.abs(moved.mean(0)).max() < 0.25


SHALLOW = {"cpu_0.02M": {}, "steerable_cpu_0.02M": {"n_levels": 2}}


@pytest.mark.parametrize("preset", SHALLOW)
def test_every_kind_of_model_is_trained_and_measured_alike(preset):
    """A steerable network obeys the cube from the start; a plain one does not."""
    grid = Grid(8, 1.0, ("C", "H"), radius=1.0)
    task = make(model=voxels.make_model(preset, grid, dropout=0.0, **SHALLOW[preset]))
    params = jax.jit(task.init)(jax.random.key(0))
    d = jax.jit(task.evaluate)(params, task.validation[0])
    assert (d.percent < 1e-6) == preset.startswith("steerable")
    (train,) = task.train
    batch = task.sample(train, jax.random.key(1))
    slope = jax.jit(jax.grad(task.loss))(params, batch, jax.random.key(2))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_noise_follows_the_molecule_and_not_its_batch():
    clean = jnp.zeros((4, *GRID.shape))
    whole = task_module.add_noise(clean, 0.9, jax.random.key(0), jnp.arange(4))
    part = task_module.add_noise(clean[:2], 0.9, jax.random.key(0), jnp.array([2, 3]))
    np.testing.assert_array_equal(whole[2:], part)
    np.testing.assert_allclose(whole.std(), 0.9, rtol=0.05)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="none of none, cube, paper16, haar, euler"):
        make("quaternion")
    with pytest.raises(ValueError, match="tiny, small, full"):
        voxels.make_model("huge", GRID)
