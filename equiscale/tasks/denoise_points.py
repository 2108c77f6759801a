"""Denoising molecules as points: clean positions from positions with Gaussian noise, without any grid.

The same molecules, split, augmentations and 24 cube rotations as in `denoise_voxels`, so that percentages compare.
Positions are in angstrom and molecules are centred; loss and percentages are squared error per coordinate of the real
atoms, averaged over molecules.

The mean of the noise over a molecule's atoms is a translation, and taking it out again is subtracting a mean, for which
no network is needed. `centred_noise` draws noise without it, so that the inputs are centred as the targets are; with
plain noise the network sees molecules displaced by sigma / sqrt(atoms) and has to move them back.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

import equiscale as es
from equiscale.data.molecules import SYMBOLS
from equiscale.data.point_noise import noise
from equiscale.data.voxels import Grid
from equiscale.models.point_transformer import PRESETS, PointTransformer
from equiscale.rotation_posterior import lost_to_rotation, prior_of
from equiscale.tasks.augmentations import augment
from equiscale.tasks.measure_names import parse_measure
from equiscale.tasks.molecule_sets import Experiment, Structures, batches, load, structures
from equiscale.tasks.task import Pair, Streamed, Task

Positions = Float[Array, "n atoms 3"]


class Points(NamedTuple):
    """What the network reads."""

    positions: Positions  # angstrom
    elements: Int[Array, "n atoms"]  # 1, 2, ... in the order of the config's elements; 0 is padding


def element_classes(grid: Grid, species: Int[Array, "n atoms"]) -> Int[Array, "n atoms"]:
    """Atomic numbers as places in the grid's list of elements, from 1; padding, and what is not there, is 0."""
    table = np.zeros(len(SYMBOLS), np.int32)
    table[list(grid.numbers)] = np.arange(len(grid.numbers)) + 1
    return jnp.asarray(table)[species]


def mean_square(error: Positions, real: Bool[Array, "n atoms"]) -> Float[Array, ""]:
    """The mean square per coordinate of real atoms of each molecule, averaged over molecules."""
    squares = jnp.where(real[..., None], jnp.square(error), 0).sum((1, 2))
    return (squares / (3 * real.sum(1))).mean()


def make_task(
    grid: Grid,
    train: Sequence[Structures | Streamed],
    validation: Structures,
    *,
    model: PointTransformer,
    noise_sigma: float,
    centred_noise: bool,
    augmentation: str,
    translation: float = 0.0,
    measure: es.Measure,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on given structures: training examples are turned and moved, as `augment` says, with their targets.

    `grid` only lists the elements; `noise_sigma` is in angstrom. The training loss is the one that is measured. Raises
    ValueError for an unknown augmentation.
    """
    augmented = augment(augmentation, translation)
    prior = prior_of(measure)
    validation_noise, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def init(key):
        return model.init(key, jnp.zeros((1, 2, 3)), jnp.ones((1, 2), int))["params"]

    def noisy(clean, species, key, ids):
        eps = noise(key, ids, species > 0, centred=centred_noise)
        return Points(clean + noise_sigma * eps, element_classes(grid, species))

    def sample(rows: Structures, key):
        turn_key, noise_key = jax.random.split(key)
        clean = augmented(rows, turn_key).positions
        return noisy(clean, rows.species, noise_key, jnp.arange(len(clean))), clean

    def predict(params, x: Points):
        return model.apply({"params": params}, x.positions, x.elements)

    def loss(params, batch, key):
        x, clean = batch
        prediction = model.apply({"params": params}, *x, train=True, rngs={"dropout": key})
        return mean_square(prediction - clean, x.elements > 0)

    def pair(batch: Structures) -> Pair:
        clean, real = batch.positions, batch.species > 0
        x = noisy(clean, batch.species, validation_noise, batch.ids)
        lost = lost_to_rotation(clean, x.positions, 1 / noise_sigma**2, prior)
        return Pair(x, clean, batch.weight, real, lost / (3 * real.sum(1)))

    return Task(
        name=f"denoise points, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=es.Symmetry(measure, act_in=Points(es.vectors, es.trivial), act_out=es.vectors),
        element_key=element_key,
        irreducible_from="a denoiser that knows the shape but not how it is turned",
    )


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> Experiment:
    """The configured task with one of its augmentations; molecules come from the cache where it has them.

    Raises what `load`, `make_model`, `parse_measure` and `make_task` raise.
    """
    grid = Grid(config.grid.length, config.grid.resolution, tuple(config.grid.elements))
    molecules = load(config, grid, cache_dir)
    task = make_task(
        grid,
        molecules.train,
        structures(molecules.validation),
        model=make_model(
            config.model.preset,
            grid,
            dropout=config.model.dropout,
            dtype=None if config.model.dtype == "float32" else jnp.dtype(config.model.dtype),
            remat=config.model.remat,
        ),
        noise_sigma=config.noise_sigma,
        centred_noise=config.centred_noise,
        augmentation=augmentation,
        translation=config.translation,
        measure=parse_measure(config.measure),
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    return Experiment(task, grid, molecules.split, molecules.validation)


def make_model(preset: str, grid: Grid, **fields) -> PointTransformer:
    """A transformer by preset name, with single fields overridden. Raises ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"model preset {preset!r} is none of {', '.join(PRESETS)}")
    return PointTransformer(n_elements=len(grid.elements), **{**PRESETS[preset], **fields})
