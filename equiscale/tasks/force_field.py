"""Energies and forces of molecules and crystals: EScAIP on quantum-chemical labels, and its equivariant counterparts.

A model reads a graph (species, positions, who neighbours whom) and gives an energy and forces. What is decomposed are
the forces, per component of real atoms; energies of these models are invariant. Models that break equivariance in their
force head alone are decomposed in closed form too, without a single rotation (`equiscale.force_algebra`), as the scores
"head" of a run; the errors in eV and eV/angstrom are its scores "errors".
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import equiscale as es
from equiscale import actions
from equiscale.data.element_references import Scale
from equiscale.data.graphs import TURNED, Graph
from equiscale.head_components import head_components
from equiscale.models import graph_transformer, spherical_transformer, tensor_field
from equiscale.models.force_head import Prediction
from equiscale.models.graph_transformer import GraphTransformer
from equiscale.models.spherical_transformer import SphericalTransformer
from equiscale.models.tensor_field import TensorField
from equiscale.tasks.attention_scores import attention_score
from equiscale.tasks.augmentations import AUGMENTATIONS
from equiscale.tasks.force_head_scores import head_score
from equiscale.tasks.force_losses import LOSSES, error_moments, error_record
from equiscale.tasks.force_sets import LabelledGraphs, load
from equiscale.tasks.measure_names import parse_measure
from equiscale.tasks.molecule_sets import batches
from equiscale.tasks.task import Pair, Score, Streamed, Task, first_of

# Models by preset: the class and its fields. Tensor fields are exactly equivariant, and spherical ones of three kinds.
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    **{name: (GraphTransformer, fields) for name, fields in graph_transformer.PRESETS.items()},
    **{f"tensor_{name}": (TensorField, fields) for name, fields in tensor_field.PRESETS.items()},
    **{name: (SphericalTransformer, fields) for name, fields in spherical_transformer.PRESETS.items()},
}


NONE_IS_ZERO = ("spread", "top_k")  # fields of spherical transformers that a config writes as 0


class ForceExperiment(NamedTuple):
    """A configured force field with what its report and its use need besides."""

    task: Task
    model: nn.Module
    scale: Scale
    reports: tuple[str, ...]  # where the data is from and what was left out

    @property
    def constants(self) -> dict[str, Any]:
        """What predictions are to be read with; kept in the run folder."""
        return self.scale.record()


def make_task(
    train: Sequence[LabelledGraphs | Streamed],
    validation: LabelledGraphs,
    *,
    model: nn.Module,
    scale: Scale,
    loss: str = "published",
    energy_weight: float = 4.0,
    force_weight: float = 100.0,
    augmentation: str = "none",
    measure: es.Measure,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on given frames.

    The training loss is `energy_weight` and `force_weight` times the terms of one of `force_losses.LOSSES`, and what a
    model adds of its own in the collection "losses"; what is measured is the squared error whatever is trained.
    `augmentation` turns training frames, with their cells and forces, by one of `augmentations.AUGMENTATIONS`.
    Raises ValueError for an unknown loss or augmentation, and for forces that no loss would train.
    """
    for name, value, known in (("loss", loss, LOSSES), ("augmentation", augmentation, AUGMENTATIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
    if not force_weight > 0 or energy_weight < 0:
        raise ValueError(f"force_weight={force_weight}, energy_weight={energy_weight}: give a positive and no negative")
    turn, terms = AUGMENTATIONS[augmentation], LOSSES[loss]
    example: Graph = jax.tree.map(jnp.asarray, first_of(train[0], 1).graph)
    _, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def init(key):
        return model.init(key, example)["params"]

    def predict(params, graph: Graph) -> Prediction:
        return model.apply({"params": params}, graph)

    def sample(rows: LabelledGraphs, key) -> LabelledGraphs:
        if turn is None:
            return rows
        g = jax.vmap(turn)(jax.random.split(key, len(rows.weight)))
        return rows._replace(
            graph=actions.apply(TURNED, g, rows.graph), forces=actions.apply(es.vectors, g, rows.forces)
        )

    def training_loss(params, rows: LabelledGraphs, key):
        rngs = {"dropout": key, "points": jax.random.fold_in(key, 1)}
        prediction, sown = model.apply({"params": params}, rows.graph, train=True, rngs=rngs, mutable=["losses"])
        of_energy, of_forces = terms(prediction, rows)
        return energy_weight * of_energy + force_weight * of_forces + sum(jax.tree.leaves(sown))

    def pair(rows: LabelledGraphs) -> Pair:
        return Pair(rows.graph, rows.forces, rows.weight, rows.counted)

    def force_moments(params, graph: Graph):
        return model.apply({"params": params}, graph, method="force_moments")

    return Task(
        name=f"force field, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=training_loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=lambda params, graph: predict(params, graph).forces,
        symmetry=es.Symmetry(measure, act_in=TURNED, act_out=es.vectors),
        element_key=element_key,
        scores=scores_of(model, scale),
        closed_components=functools.partial(head_components, force_moments) if breaks_in_head(model) else None,
    )


def breaks_in_head(model: nn.Module) -> bool:
    """Whether all that can break the equivariance of its forces is `ForceHead`, which has closed forms."""
    return isinstance(model, GraphTransformer) and model.forces == "direct"


def scores_of(model: nn.Module, scale: Scale) -> dict[str, Score]:
    """ "errors" of any model, "head" of one that breaks equivariance in its head alone, "attention" on spheres."""

    def errors(params, rows: LabelledGraphs):
        return error_moments(model.apply({"params": params}, rows.graph), rows, scale)

    scores = {"errors": Score(errors, error_record)}
    if breaks_in_head(model):
        scores["head"] = head_score(model)
    if isinstance(model, SphericalTransformer) and model.attends:
        scores["attention"] = attention_score(model)
    return scores


def make_model(preset: str, *, cutoff: float, **fields) -> nn.Module:
    """A model by preset name, with single fields overridden. Raises ValueError for an unknown preset or field."""
    if preset not in MODELS:
        raise ValueError(f"model preset {preset!r} is none of {', '.join(MODELS)}")
    kind, usual = MODELS[preset]
    unknown = set(fields) - set(kind.__dataclass_fields__)
    if unknown:
        raise ValueError(f"model preset {preset!r} has no {', '.join(sorted(unknown))}: leave it at its default")
    return kind(**{**usual, "cutoff": cutoff, **fields})


def model_of(config: ConfigDict) -> nn.Module:
    """The model of a config. Raises what `make_model` raises: also for a field of graph transformers alone that is not
    at its default while the preset is another model's.
    """
    fields = config.model.to_dict()
    preset, dtype = fields.pop("preset"), fields.pop("dtype")
    spherical = {name: value for name, value in fields.pop("spherical").items() if value is not None}
    n_rbf = fields.pop("n_rbf", 0)  # of configs that have it; 0: the preset\'s
    if preset in MODELS and MODELS[preset][0] is not GraphTransformer:
        usual = {name: GraphTransformer.__dataclass_fields__[name].default for name in fields}
        has = MODELS[preset][0].__dataclass_fields__
        fields = {name: value for name, value in fields.items() if name in has or value != usual[name]}
    if dtype != "float32":
        fields["dtype"] = jnp.dtype(dtype)
    if spherical and not issubclass(MODELS.get(preset, (SphericalTransformer,))[0], SphericalTransformer):
        raise ValueError(f"model.spherical.{min(spherical)} is set, and model preset {preset!r} is no spherical one")
    fields |= {name: value or None if name in NONE_IS_ZERO else value for name, value in spherical.items()}
    fields |= {"n_rbf": n_rbf} if n_rbf else {}
    return make_model(preset, cutoff=config.graph.cutoff, **fields)


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> ForceExperiment:
    """The configured task with one of its augmentations; frames made here come from the cache where it has them.

    Raises what `model_of`, `force_sets.load`, `parse_measure` and `make_task` raise.
    """
    model, measure = model_of(config), parse_measure(config.measure)
    sets = load(config, k=config.graph.neighbours, cutoff=config.graph.cutoff, cache_dir=cache_dir)
    task = make_task(
        sets.train,
        sets.validation,
        model=model,
        scale=sets.scale,
        loss=config.loss.kind,
        energy_weight=config.loss.energy_weight,
        force_weight=config.loss.force_weight,
        augmentation=augmentation,
        measure=measure,
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    return ForceExperiment(task, model, sets.scale, sets.reports)
