"""Denoising voxelised molecules (VoxMol): a clean density from one with Gaussian noise added.

The symmetry is the cube's 24 rotations, which turn a grid exactly; the noisy grid is turned as it is. Loss and
percentages are squared error per voxel and channel.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

import equiscale as es
from equiscale.data import nci
from equiscale.data.molecules import Molecules, split
from equiscale.data.voxels import Grid, centre, check_fits, voxelise
from equiscale.models.voxel_unet import PRESETS, VoxelUNet
from equiscale.tasks.task import Pair, Params, Task

SYMMETRY = es.Symmetry(measure=es.octahedral.enumerate(), act_in=es.grid, act_out=es.grid)

# What a training example is turned by, before it is voxelised.
AUGMENTATIONS = {"none": None, "cube": es.octahedral.random, "haar": es.so3.random}


class Structures(NamedTuple):
    """Molecules on the device; `weight` 0 marks padding of the last batch, `ids` seed noise."""

    positions: Float[Array, "n atoms 3"]  # angstrom, centred
    species: Int[Array, "n atoms"]
    ids: Int[Array, " n"]
    weight: Float[Array, " n"]


class MoleculeSplit(NamedTuple):
    """Molecules that fit the grid in any orientation, split by compound, and what was left out."""

    train: Molecules
    validation: Molecules
    reports: tuple[str, ...]


def load_nci(
    grid: Grid, *, limit: int, max_heavy_atoms: int, validation: float, seed: int, cache_dir: str | None = None
) -> MoleculeSplit:
    """Real compounds from RDKit's NCI list with ETKDG conformers, kept if they fit `grid` however they are turned.

    `limit` bounds the compounds taken from the list (before the grid's own filter). Raises what `nci.load` and
    `split` raise, and ValueError if nothing fits.
    """
    molecules, listed = nci.load(
        grid.elements, limit=limit, max_heavy_atoms=max_heavy_atoms, seed=seed, cache_dir=cache_dir
    )
    fits, fitted = check_fits(molecules, grid)
    if not fits.any():
        raise ValueError(f"no molecule fits the grid ({fitted}); enlarge grid.length or lower max_heavy_atoms")
    molecules = molecules.subset(fits)
    train, held_out = split(molecules, validation, seed)
    return MoleculeSplit(
        molecules.subset(train), molecules.subset(held_out), (f"{molecules.source}: {listed}", f"grid: {fitted}")
    )


def structures(molecules: Molecules) -> Structures:
    """Centred positions on the device, with ids counting up."""
    n = len(molecules)
    positions, species = jnp.asarray(molecules.positions), jnp.asarray(molecules.species)
    return Structures(centre(positions, species), species, jnp.arange(n), jnp.ones(n))


def batches(data: Structures, batch_size: int) -> list[Structures]:
    """Consecutive batches of one size; the last is padded with repeats of weight 0."""
    n = len(data.ids)
    rows = np.minimum(np.arange(-(-n // batch_size) * batch_size), n - 1)
    present = jnp.asarray(np.arange(len(rows)) < n, float)
    padded = jax.tree.map(lambda a: a[rows], data)._replace(weight=present)
    return [
        jax.tree.map(lambda a: a[i : i + batch_size], padded)  # noqa: B023
        for i in range(0, len(rows), batch_size)
    ]


def densities(grid: Grid, positions: Float[Array, "n atoms 3"], species: Int[Array, "n atoms"]):
    """Clean voxel grids `[n, channels, length, length, length]`."""
    return jax.vmap(lambda p, s: voxelise(p, s, grid))(positions, species)


def add_noise(clean: Float[Array, "n channels x y z"], sigma: float, key: PRNGKeyArray, ids: Int[Array, " n"]):
    """clean + sigma eps, each example's eps drawn by its own id: the same in any batch."""
    eps = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), clean.shape[1:]))(ids)
    return clean + sigma * eps


def make_task(
    grid: Grid,
    train: Structures,
    validation: Structures,
    *,
    model: VoxelUNet,
    noise_sigma: float,
    augmentation: str,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on given structures; `augmentation` is one of "none", "cube", "haar".

    The training loss is the published one, the squared error summed over voxels and channels, averaged over the
    batch. Raises ValueError for an unknown augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation {augmentation!r} is none of {', '.join(AUGMENTATIONS)}")
    turn: Callable | None = AUGMENTATIONS[augmentation]
    validation_noise, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def init(key):
        return model.init(key, jnp.zeros((1, *grid.shape)))["params"]

    def sample(data: Structures, indices, key):
        rows = jax.tree.map(lambda a: a[indices], data)
        turn_key, noise_key = jax.random.split(key)
        positions = rows.positions
        if turn is not None:
            g = jax.vmap(turn)(jax.random.split(turn_key, len(indices)))
            positions = jax.vmap(es.vectors)(g, positions)
        clean = densities(grid, positions, rows.species)
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
        train_data=train,
        sample=sample,
        loss=loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=SYMMETRY,
        element_key=element_key,
    )


class Experiment(NamedTuple):
    """A configured task with what its report needs besides."""

    task: Task
    grid: Grid
    molecules: MoleculeSplit
    validation: Molecules  # those that are measured


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> Experiment:
    """The configured task with one of its augmentations; molecules come from the cache where it has them.

    Raises what `load_nci`, `make_model` and `make_task` raise.
    """
    grid = Grid(config.grid.length, config.grid.resolution, tuple(config.grid.elements), radius=config.grid.radius)
    molecules = load_nci(
        grid,
        limit=config.data.limit,
        max_heavy_atoms=config.data.max_heavy_atoms,
        validation=config.data.validation,
        seed=config.seed,
        cache_dir=cache_dir,
    )
    wanted = min(config.evaluation.molecules, len(molecules.validation))
    validation = molecules.validation.subset(np.arange(wanted))
    task = make_task(
        grid,
        structures(molecules.train),
        structures(validation),
        model=make_model(
            config.model.preset,
            grid,
            dropout=config.model.dropout,
            dtype=None if config.model.dtype == "float32" else jnp.dtype(config.model.dtype),
            remat=config.model.remat,
        ),
        noise_sigma=config.noise_sigma,
        augmentation=augmentation,
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    return Experiment(task, grid, molecules, validation)


def make_model(preset: str, grid: Grid, **fields) -> VoxelUNet:
    """A U-Net by preset name, with single fields overridden. Raises ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"model preset {preset!r} is none of {', '.join(PRESETS)}")
    return VoxelUNet(n_elements=len(grid.elements), **{**PRESETS[preset], **fields})


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
