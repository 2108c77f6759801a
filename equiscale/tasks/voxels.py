"""What tasks on voxelised molecules share: densities of turned molecules, noise, U-Nets, and their part of a config."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from equiscale.data.voxels import Grid, voxelise
from equiscale.models import steerable_unet, voxel_unet
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet

MODELS = {name: (VoxelUNet, fields) for name, fields in voxel_unet.PRESETS.items()}
MODELS |= {f"steerable_{name}": (SteerableUNet, fields) for name, fields in steerable_unet.PRESETS.items()}


def densities(grid: Grid, positions: Float[Array, "n atoms 3"], species: Int[Array, "n atoms"]):
    """Clean voxel grids `[n, channels, length, length, length]`."""
    return jax.vmap(lambda p, s: voxelise(p, s, grid))(positions, species)


def add_noise(clean: Float[Array, "n channels x y z"], sigma: float, key: PRNGKeyArray, ids: Int[Array, " n"]):
    """clean + sigma eps, each example's eps drawn by its own id: the same in any batch."""
    eps = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), clean.shape[1:]))(ids)
    return clean + sigma * eps


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
