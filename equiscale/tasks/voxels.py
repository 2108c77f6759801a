"""What tasks on voxelised molecules share: densities of turned molecules, noise, U-Nets, and their part of a config."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

import equiscale as es
from equiscale import actions
from equiscale.data.molecules import Molecules
from equiscale.data.voxels import Grid, voxelise
from equiscale.models import steerable_unet, voxel_unet
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.tasks.augmentations import AUGMENTATIONS
from equiscale.tasks.molecule_sets import MARGIN, MoleculeSplit, Structures, load_nci, load_stored
from equiscale.tasks.task import Task

MODELS = {name: (VoxelUNet, fields) for name, fields in voxel_unet.PRESETS.items()}
MODELS |= {f"steerable_{name}": (SteerableUNet, fields) for name, fields in steerable_unet.PRESETS.items()}


class Experiment(NamedTuple):
    """A configured task with what its report needs besides."""

    task: Task
    grid: Grid
    molecules: MoleculeSplit
    validation: Molecules  # those that are measured

    @property
    def reports(self) -> tuple[str, ...]:
        """Where the data is from and what was left out."""
        return self.molecules.reports


def densities(grid: Grid, positions: Float[Array, "n atoms 3"], species: Int[Array, "n atoms"]):
    """Clean voxel grids `[n, channels, length, length, length]`."""
    return jax.vmap(lambda p, s: voxelise(p, s, grid))(positions, species)


def add_noise(clean: Float[Array, "n channels x y z"], sigma: float, key: PRNGKeyArray, ids: Int[Array, " n"]):
    """clean + sigma eps, each example's eps drawn by its own id: the same in any batch."""
    eps = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), clean.shape[1:]))(ids)
    return clean + sigma * eps


def make_move(
    augmentation: str, translation: float, act_labels: Any = es.trivial
) -> Callable[[Structures, PRNGKeyArray], Structures]:
    """Molecules turned, each with its labels, by one of `AUGMENTATIONS`, then moved.

    Each is moved by up to `translation` angstrom along each axis, which labels do not see. Raises ValueError for an
    unknown augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation {augmentation!r} is none of {', '.join(AUGMENTATIONS)}")
    turn = AUGMENTATIONS[augmentation]

    def move(rows: Structures, key: PRNGKeyArray) -> Structures:
        positions, labels = rows.positions, rows.labels
        if turn is not None:
            g = jax.vmap(turn)(jax.random.split(key, len(positions)))
            positions = jax.vmap(es.vectors)(g, positions)
            labels = actions.apply(act_labels, g, labels)
        if translation:
            shift_key = jax.random.fold_in(key, 0)
            shift = jax.random.uniform(shift_key, (len(positions), 1, 3), minval=-translation, maxval=translation)
            positions = positions + shift
        return rows._replace(positions=positions, labels=labels)

    return move


def make_model(preset: str, grid: Grid, **fields) -> VoxelUNet | SteerableUNet:
    """A U-Net by preset name, with single fields overridden. Raises ValueError for an unknown preset."""
    if preset not in MODELS:
        raise ValueError(f"model preset {preset!r} is none of {', '.join(MODELS)}")
    model, preset_fields = MODELS[preset]
    return model(n_elements=len(grid.elements), **{**preset_fields, **fields})


# --- what a config says ----------------------------------------------------------------------------------------


def grid_of(config: ConfigDict) -> Grid:
    return Grid(config.grid.length, config.grid.resolution, tuple(config.grid.elements), radius=config.grid.radius)


def model_of(config: ConfigDict, grid: Grid) -> VoxelUNet | SteerableUNet:
    """Raises what `make_model` raises."""
    return make_model(
        config.model.preset,
        grid,
        dropout=config.model.dropout,
        dtype=None if config.model.dtype == "float32" else jnp.dtype(config.model.dtype),
        remat=config.model.remat,
    )


def load_molecules(config: ConfigDict, grid: Grid, cache_dir: str | None) -> MoleculeSplit:
    """Those of the configured folder, or of the NCI list, from the cache where it has them.

    Raises what `load_nci` and `load_stored` raise.
    """
    common = {"validation": config.data.validation, "seed": config.seed, "margin": MARGIN + config.translation}
    if config.data.folder:
        return load_stored(config.data.folder, grid, most_validation=config.evaluation.molecules, **common)
    sizes = {"limit": config.data.limit, "max_heavy_atoms": config.data.max_heavy_atoms}
    return load_nci(grid, **sizes, **common, cache_dir=cache_dir)
