"""Denoising voxelised molecules (VoxMol): a clean density from one with Gaussian noise added.

The symmetry is the cube's 24 rotations, which turn a grid exactly; the noisy grid is turned as it is. Loss and
percentages are squared error per voxel and channel.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import equiscale as es
from equiscale.data.voxels import Grid
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.tasks.molecule_sets import Structures, batches, fraction_of, structures, training_sets
from equiscale.tasks.task import Pair, Params, Streamed, Task
from equiscale.tasks.voxels import Experiment, add_noise, densities, grid_of, load_molecules, make_move, model_of

SYMMETRY = es.Symmetry(measure=es.octahedral.enumerate(), act_in=es.grid, act_out=es.grid)


def make_task(
    grid: Grid,
    train: Sequence[Structures | Streamed],
    validation: Structures,
    *,
    model: VoxelUNet | SteerableUNet,
    noise_sigma: float,
    augmentation: str,
    translation: float = 0.0,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on given structures: training examples are turned by one of `AUGMENTATIONS`, then moved.

    Each is moved by up to `translation` angstrom along each axis. The training loss is the published one, the squared
    error summed over voxels and channels, averaged over the batch. Raises ValueError for an unknown augmentation.
    """
    move = make_move(augmentation, translation)
    validation_noise, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def init(key):
        return model.init(key, jnp.zeros((1, *grid.shape)))["params"]

    def sample(rows: Structures, key):
        turn_key, noise_key = jax.random.split(key)
        moved = move(rows, turn_key)
        clean = densities(grid, moved.positions, moved.species)
        return clean + noise_sigma * jax.random.normal(noise_key, clean.shape), clean

    def predict(params, noisy):
        return model.apply({"params": params}, noisy)

    def loss(params, batch, key):
        noisy, clean = batch
        prediction = model.apply({"params": params}, noisy, train=True, rngs={"dropout": key})
        return jnp.square(prediction - clean).sum() / len(clean)

    def pair(batch: Structures) -> Pair:
        clean = densities(grid, batch.positions, batch.species)
        return Pair(add_noise(clean, noise_sigma, validation_noise, batch.ids), clean, batch.weight)

    return Task(
        name=f"denoise voxels, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=SYMMETRY,
        element_key=element_key,
    )


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> Experiment:
    """The configured task with one of its augmentations; molecules come from the cache where it has them.

    Raises what `load_molecules`, `model_of` and `make_task` raise.
    """
    grid = grid_of(config)
    molecules = load_molecules(config, grid, cache_dir)
    wanted = min(config.evaluation.molecules, len(molecules.validation))
    validation = molecules.validation.subset(np.arange(wanted))
    task = make_task(
        grid,
        training_sets(fraction_of(molecules.train, config.data.fraction, config.seed), config.data.buckets),
        structures(validation),
        model=model_of(config, grid),
        noise_sigma=config.noise_sigma,
        augmentation=augmentation,
        translation=config.translation,
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    return Experiment(task, grid, molecules, validation)


def sample_densities(
    task: Task, grid: Grid, noise_sigma: float, seed: int, params: Mapping[str, Params], index: int = 0
) -> dict[str, np.ndarray]:
    """One validation molecule: clean and noisy grids `[channels, n, n, n]`, and what each parameter set makes of it."""
    one = jax.tree.map(lambda a: a[index : index + 1], task.validation[0])
    clean = densities(grid, one.positions, one.species)
    noisy = add_noise(clean, noise_sigma, jax.random.fold_in(jax.random.key(seed), 2), one.ids)
    predict = jax.jit(task.predict)
    outputs = {label: np.asarray(predict(p, noisy)[0]) for label, p in params.items()}
    return {"clean": np.asarray(clean[0]), "noisy": np.asarray(noisy[0]), **outputs}
