"""Predicting properties of molecules from their voxels, by a head on a U-Net's bottleneck (arXiv 2507.09753).

Scalars must not change when the molecule is turned, vectors must turn with it, by the cube's 24 rotations, which turn a
grid exactly. Loss and percentages are squared error per component of the standardised targets, of which a vector has
three. The published training adds this loss to that of denoising, on noisy densities.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import equiscale as es
from equiscale.data.voxels import Grid
from equiscale.models.property_head import PropertyHead
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.parameters import by_path
from equiscale.tasks.augmentations import augment
from equiscale.tasks.labelled_molecules import labelled
from equiscale.tasks.molecule_sets import Experiment, Structures, batches, load_split, structures, training_sets
from equiscale.tasks.property_scores import Property, property_score
from equiscale.tasks.property_targets import describe, quantities_of
from equiscale.tasks.task import Pair, Params, Streamed, Task
from equiscale.tasks.voxels import add_noise, densities, grid_of, model_of

ACTIONS = {"scalars": es.scalars, "vectors": es.vectors}
INPUTS = ("noisy", "clean")


def make_task(
    grid: Grid,
    train: Sequence[Structures | Streamed],
    validation: Structures,
    *,
    properties: Sequence[Property],
    model: VoxelUNet | SteerableUNet,
    head_width: int = 128,
    head_dropout: float = 0.1,
    noise_sigma: float,
    denoising_weight: float = 0.0,
    frozen: bool = False,
    encoder: Callable[[], Params] | None = None,
    augmentation: str,
    translation: float = 0.0,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on structures whose labels are the targets of `properties`, turned and moved as for denoising.

    Parameters are those of the U-Net under "encoder" and of the head under "head". `encoder()` gives those the U-Net
    starts from, and is called where the network is initialised alone; without it they are new. `frozen` trains the
    head alone. A `noise_sigma` of 0 is clean input. The training loss is the squared error per component of the
    targets plus `denoising_weight` times the published denoising loss, summed over voxels and channels; both are
    averaged over the batch. The head on a `SteerableUNet` is equivariant, as that is.

    Raises ValueError for an unknown augmentation, and for a denoising weight with clean input or a frozen encoder.
    Initialising raises it for encoder parameters of another network, naming the first that differs.
    """
    if denoising_weight and (frozen or not noise_sigma):
        why = "the encoder is frozen" if frozen else "the input is clean"
        raise ValueError(f"denoising_weight={denoising_weight} while {why}: denoising cannot train it; set it to 0")
    kinds = [p.kind for p in properties]
    head = PropertyHead(
        n_scalars=kinds.count("scalar"),
        n_vectors=kinds.count("vector"),
        width=head_width,
        dropout=head_dropout,
        irreps=str(model.irreps(model.n_levels - 1)) if isinstance(model, SteerableUNet) else None,
    )
    acts = {kind: action for kind, action in ACTIONS.items() if kind.removesuffix("s") in kinds}
    augmented = augment(augmentation, translation, acts)
    noise_key, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def encode(params, x, **settings):
        """What the U-Net makes of a density, and its latent."""
        denoised, sown = model.apply({"params": params}, x, mutable=["intermediates"], **settings)
        return denoised, sown["intermediates"]["latent"][0]

    def init(key):
        encoder_key, head_key = jax.random.split(key)
        x = jnp.zeros((1, *grid.shape))
        new = model.init(encoder_key, x)["params"]
        params = new if encoder is None else _same_shapes(encoder(), new)
        return {"encoder": params, "head": head.init(head_key, encode(params, x)[1])["params"]}

    def apply(params, x, key=None):
        """Denoised density and predictions; with a key, as in training."""
        keys = (None, None) if key is None else jax.random.split(key)
        of_encoder, of_head = ({} if k is None else {"train": True, "rngs": {"dropout": k}} for k in keys)
        if frozen:
            denoised, latent = encode(jax.lax.stop_gradient(params["encoder"]), x)
        else:
            denoised, latent = encode(params["encoder"], x, **of_encoder)
        return denoised, head.apply({"params": params["head"]}, latent, **of_head)

    def sample(rows: Structures, key):
        turn_key, noise_key = jax.random.split(key)
        moved = augmented(rows, turn_key)
        clean = densities(grid, moved.positions, moved.species)
        noisy = clean + noise_sigma * jax.random.normal(noise_key, clean.shape) if noise_sigma else clean
        return noisy, clean, moved.labels

    def loss(params, batch, key):
        x, clean, targets = batch
        denoised, predicted = apply(params, x, key)
        errors = jax.tree.map(lambda p, t: jnp.square(p - t).sum(), predicted, targets)
        found = sum(jax.tree.leaves(errors)) / sum(t.size for t in jax.tree.leaves(targets))
        if denoising_weight:
            found += denoising_weight * jnp.square(denoised - clean).sum() / len(clean)
        return found

    def pair(batch: Structures) -> Pair:
        x = densities(grid, batch.positions, batch.species)
        if noise_sigma:
            x = add_noise(x, noise_sigma, noise_key, batch.ids)
        return Pair(x, batch.labels, batch.weight)

    def predict(params, x):
        return apply(params, x)[1]

    symmetry = es.Symmetry(measure=es.octahedral.enumerate(), act_in=es.grid, act_out=acts)
    return Task(
        name=f"predict properties, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=symmetry,
        element_key=element_key,
        frozen="encoder/*" if frozen else "",
        scores={"properties": property_score(predict, pair, symmetry, properties, element_key)},
    )


def _same_shapes(given: Params, new: Params) -> Params:
    """Parameters from elsewhere, as arrays, once they are those of this network."""
    there, here = ({path: jnp.shape(a) for path, a in by_path(tree).items()} for tree in (given, new))
    differing = [path for path in (*here, *there) if there.get(path) != here.get(path)]
    if differing:
        path = differing[0]
        raise ValueError(
            f"the encoder's parameters are of another network: {path} has shape {there.get(path, 'none')} there and "
            f"{here.get(path, 'none')} in this run's model; {len(set(differing))} of {len(here)} differ"
        )
    return jax.tree.map(jnp.asarray, given)


def from_config(
    config: ConfigDict,
    augmentation: str,
    cache_dir: str | None = None,
    encoder: Callable[[], Params] | None = None,
) -> Experiment:
    """The configured task with one of its augmentations; `encoder` reads the parameters of `config.encoder.run`.

    Raises what `load_split`, `labelled`, `model_of` and `make_task` raise, and ValueError for an `input`
    that is none of `INPUTS`, or where `config.encoder.run` names a run and no `encoder` is given to read it.
    """
    if config.input not in INPUTS:
        raise ValueError(f"input {config.input!r} is none of {', '.join(INPUTS)}")
    if bool(config.encoder.run) != (encoder is not None):
        raise ValueError(f"encoder.run is {config.encoder.run!r}: give `encoder` to read it if and only if it is a run")
    grid = grid_of(config)
    split = load_split(config, grid, cache_dir)
    found = labelled(config, split)
    task = make_task(
        grid,
        training_sets(found.train, config.data.buckets, found.labels),
        structures(found.validation, found.known),
        properties=describe(quantities_of(found.train, config.properties), found.standard),
        model=model_of(config, grid),
        head_width=config.head.width,
        head_dropout=config.head.dropout,
        noise_sigma=config.noise_sigma if config.input == "noisy" else 0.0,
        denoising_weight=config.denoising_weight,
        frozen=config.encoder.frozen,
        encoder=encoder,
        augmentation=augmentation,
        translation=config.translation,
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    return Experiment(task, grid, split._replace(reports=(*split.reports, *found.reports)), found.validation)
