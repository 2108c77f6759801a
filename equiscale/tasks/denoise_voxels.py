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
from equiscale.tasks.alignment import KINDS, OFF, Alignment, disagreement
from equiscale.tasks.augmentations import augment
from equiscale.tasks.molecule_sets import Experiment, Structures, batches, load, structures
from equiscale.tasks.task import Latent, Pair, Params, Streamed, Task
from equiscale.tasks.voxels import add_noise, densities, grid_of, model_of

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
    alignment: Alignment = OFF,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on given structures: training examples are turned and moved, as `augment` says.

    The training loss is the published one, the squared error summed over voxels and channels, averaged over the batch.
    To it `alignment` adds its weight times A (see `equiscale.tasks.alignment`) times the clean grids' squared norm,
    summed and averaged alike: at weight 1 unrelated latents cost as much as predicting nothing, on any grid.

    Raises ValueError for an unknown augmentation, and for an alignment that is not one or of a steerable model.
    """
    if alignment.check().weight > 0 and isinstance(model, SteerableUNet):
        raise ValueError(
            f"alignment.weight {alignment.weight}: a steerable model's latents turn with the molecule by construction, "
            "so there is nothing to align; set it to 0 or choose a plain model"
        )
    augmented = augment(augmentation, translation)
    validation_noise, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def init(key):
        return model.init(key, jnp.zeros((1, *grid.shape)))["params"]

    def sample(rows: Structures, key):
        turn_key, noise_key = jax.random.split(key)
        moved = augmented(rows, turn_key)
        clean = densities(grid, moved.positions, moved.species)
        return clean + noise_sigma * jax.random.normal(noise_key, clean.shape), clean

    def predict(params, noisy):
        return model.apply({"params": params}, noisy)

    def loss(params, batch, key):
        noisy, clean = batch
        prediction = model.apply({"params": params}, noisy, train=True, rngs={"dropout": key})
        return jnp.square(prediction - clean).sum() / len(clean)

    def aligned_loss(params, batch, key):
        noisy, clean = batch

        def forward(x, key):
            variables, rngs = {"params": params}, {"dropout": key}
            prediction, sown = model.apply(variables, x, train=True, rngs=rngs, mutable="intermediates")
            return prediction, sown["intermediates"]["latent"][0]

        prediction, latent = forward(noisy, key)
        turn_key, dropout_key = jax.random.split(jax.random.fold_in(key, 1))
        g = jax.vmap(es.octahedral.random)(jax.random.split(turn_key, len(noisy)))
        _, of_turned = forward(jax.vmap(es.grid)(g, noisy), dropout_key)
        turned, of_turned = map(KINDS[alignment.kind], (jax.vmap(es.grid)(g, latent), of_turned))
        scale = alignment.weight * jnp.square(clean).sum()
        return (jnp.square(prediction - clean).sum() + scale * disagreement(turned, of_turned)) / len(clean)

    def pair(batch: Structures) -> Pair:
        clean = densities(grid, batch.positions, batch.species)
        return Pair(add_noise(clean, noise_sigma, validation_noise, batch.ids), clean, batch.weight)

    return Task(
        name=f"denoise voxels, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=aligned_loss if alignment.weight else loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=SYMMETRY,
        element_key=element_key,
        latent=latent_of(model),
    )


def latent_of(model: VoxelUNet | SteerableUNet) -> Latent:
    """The grid on the coarsest level: of the plain model channels of scalars, of the steerable one fields of irreps."""

    def encode(params, x):
        return model.apply({"params": params}, x, mutable="intermediates")[1]["intermediates"]["latent"][0]

    if not isinstance(model, SteerableUNet):
        return Latent(encode, es.grid)
    coarsest = model.n_levels - 1
    return Latent(encode, model.action(coarsest), n_scalars=model.irreps(coarsest)[0].mul)


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> Experiment:
    """The configured task with one of its augmentations; molecules come from the cache where it has them.

    Raises what `load`, `model_of` and `make_task` raise.
    """
    grid = grid_of(config)
    molecules = load(config, grid, cache_dir)
    task = make_task(
        grid,
        molecules.train,
        structures(molecules.validation),
        model=model_of(config, grid),
        noise_sigma=config.noise_sigma,
        augmentation=augmentation,
        translation=config.translation,
        alignment=Alignment(**config.alignment),
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    return Experiment(task, grid, molecules.split, molecules.validation)


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
