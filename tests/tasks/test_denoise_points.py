import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from configs import denoise_points, denoise_voxels
from equiscale.data.molecules import from_records
from equiscale.data.point_noise import noise
from equiscale.data.voxels import Grid
from equiscale.models.point_transformer import PointTransformer
from equiscale.tasks import denoise_points as task_module
from equiscale.tasks import denoise_voxels as voxel_module
from equiscale.tasks.augmentations import AUGMENTATIONS
from equiscale.tasks.molecule_sets import structures
from equiscale.tasks.task import first_of

GRID = Grid(8, 1.0, ("C", "H", "O"))


def molecules(n=5, width=None):
    """Three to five atoms in random places: shapes for tests, no chemistry."""
    rng = np.random.default_rng(0)
    sizes = [3 + i % 3 for i in range(n)]
    records = [(f"random {i}", ["C", "H", "O", "H", "C"][:k], rng.normal(size=(k, 3))) for i, k in enumerate(sizes)]
    return from_records(records, "random points", max_atoms=width)


def make(augmentation="cube", width=None, **changes):
    data = structures(molecules(width=width))
    model = PointTransformer(n_elements=3, width=8, heads=2, layers=1)
    settings = {"model": model, "noise_sigma": 0.3, "centred_noise": True, "evaluation_batch": 2, "seed": 0}
    settings |= {"augmentation": augmentation, "measure": es.octahedral.enumerate()}
    return task_module.make_task(GRID, [data], data, **settings | changes)


@pytest.fixture(scope="module")
def task():
    return make()


STRETCHES = jnp.array([1.0, 0.5, 0.2])


def stretching(task):
    """With a denoiser of three parameters, which stretches each axis otherwise, in the place of the network."""
    return task._replace(predict=lambda params, x: params * x.positions)


def measured(task, params, **settings):
    evaluate = jax.jit(lambda params, batch: task.evaluate(params, batch, **settings))
    return sum(evaluate(params, batch) for batch in task.validation)


def test_a_denoiser_that_returns_its_input_reads_the_noise_and_no_broken_symmetry(task):
    """Its loss is the noise's own, by a loop over molecules; rotations cannot change that."""
    d = measured(stretching(task), jnp.ones(3))
    wanted = []
    for batch in task.validation:
        x, y, weight, mask, _ = task.pair(batch)
        for i in range(len(weight)):
            if weight[i]:
                wanted.append(np.square(np.asarray(x.positions - y, np.float64)[i][np.asarray(mask[i])]).mean())
    assert d.n_examples == len(wanted) == 5
    np.testing.assert_allclose(d.total, np.mean(wanted), rtol=1e-5)
    assert d.percent < 1e-9


def test_neither_padding_nor_batches_change_a_number(task):
    first, *others = (measured(stretching(t), STRETCHES) for t in (task, make(width=9), make(evaluation_batch=5)))
    for d in others:
        for name in ("total", "percent", "percent_stderr", "percent_reducible"):
            np.testing.assert_allclose(getattr(d, name), getattr(first, name), rtol=1e-4)
    assert 1 < first.percent < first.percent_reducible


def test_every_instrument_leaves_padding_out(task):
    narrow, wide = stretching(task), stretching(make(width=9))
    for name in ("loss_total", "gradient_total", "gradient_equiv"):
        a, b = (t.gradients(STRETCHES, t.validation[0]).record()[name] for t in (narrow, wide))
        np.testing.assert_allclose(a, b, rtol=1e-4)
    a, b = (t.reconstruction(STRETCHES, t.validation[0]) for t in (narrow, wide))
    np.testing.assert_allclose(a.bound, b.bound, rtol=1e-5)
    np.testing.assert_allclose(a.share[0], b.share[0], rtol=1e-3, atol=1e-6)
    a, b = (t.components(STRETCHES, t.validation[0]).losses(STRETCHES) for t in (narrow, wide))
    np.testing.assert_allclose(a["equiv"], b["equiv"], rtol=1e-4)


def test_training_and_evaluation_share_their_loss():
    """Of validation molecules as they are, the loss that is trained on is the one that is measured."""
    task = make(evaluation_batch=5)
    task = task._replace(symmetry=es.Symmetry(es.octahedral.enumerate(), es.trivial, es.trivial))
    params = jax.jit(task.init)(jax.random.key(0))
    pair = task.pair(task.validation[0])
    loss, slope = jax.jit(jax.value_and_grad(task.loss))(params, (pair.x, pair.y), jax.random.key(0))
    np.testing.assert_allclose(loss, measured(task, params).total, rtol=1e-5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_noise_follows_the_atom_whatever_the_batch_and_the_padding():
    real = jnp.arange(6) < jnp.array([[6], [4], [5], [6]])
    whole = noise(jax.random.key(0), jnp.arange(4), real, centred=True)
    wider = jnp.pad(real[1:3], ((0, 0), (0, 3)))
    part = noise(jax.random.key(0), jnp.array([1, 2]), wider, centred=True)
    np.testing.assert_allclose(part[:, :6], whole[1:3], atol=1e-6)
    assert jnp.all(whole[~real] == 0) and jnp.abs(whole.sum(1)).max() < 1e-5
    plain = noise(jax.random.key(0), jnp.arange(4000), jnp.ones((4000, 4), bool), centred=False)
    np.testing.assert_allclose([plain.mean(), plain.std()], [0, 1], atol=0.02)
    assert jnp.abs(plain.sum(1)).max() > 1


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_turns_input_and_target_together(name):
    task = make(name, noise_sigma=0.0, translation=0.5 if name == "cube" else 0.0)
    rows = first_of(task.train[0], 1)
    (x, clean) = task.sample(rows, jax.random.key(3))
    np.testing.assert_allclose(x.positions, clean, atol=1e-6)
    assert np.allclose(clean, rows.positions, atol=1e-3) == (name == "none")
    real = rows.species[0] > 0
    before, after = (p[0][real] - p[0][real].mean(0) for p in (rows.positions, clean))
    np.testing.assert_allclose(before @ before.T, after @ after.T, atol=1e-4)
    moved = jnp.abs(clean[0][real].mean(0)).max()
    assert (1e-3 < moved < 0.5) if name == "cube" else moved < 1e-5


def test_elements_are_places_in_the_list():
    found = task_module.element_classes(GRID, jnp.array([[6, 1, 8, 1, 0], [8, 7, 0, 0, 0]]))
    assert found.tolist() == [[1, 2, 3, 2, 0], [3, 0, 0, 0, 0]]


def test_it_takes_the_molecules_of_the_voxel_task(tmp_path):
    """Of the same preset: the same to train on and the same to measure, in the same order."""
    points = task_module.from_config(denoise_points.get_config("smoke"), "cube", str(tmp_path))
    config = denoise_voxels.get_config("smoke")
    voxels = voxel_module.from_config(config, "cube", str(tmp_path))
    assert points.reports == voxels.reports and "kept" in points.reports[1]
    for part in ("train", "validation"):
        for a, b in zip(getattr(points.task, part), getattr(voxels.task, part), strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)
    other = denoise_points.get_config("smoke")
    other.measure = "so3.coset(12, n=2)"
    measure = task_module.from_config(other, "none", str(tmp_path)).task.symmetry.measure
    assert measure.name == "so3.coset(12, n=2)" and points.task.symmetry.measure.n_elements == 24


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="none of none, cube, paper16, haar, euler"):
        make("quaternion")
    with pytest.raises(ValueError, match=r"'huge' is none of cpu_0\.02M, cpu_0\.06M"):
        task_module.make_model("huge", GRID)
