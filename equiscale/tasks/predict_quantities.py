"""Quantities of molecules by graph networks: scalars, vectors (dipole) and traceless tensors (quadrupole) of each.

The models are those of `force_field`, with a head for quantities (`equiscale.models.quantity_head`) in the place of
their own. A molecule is given as a graph, and turned by any rotation: scalars must not change, vectors and tensors must
turn with it. What is decomposed is the squared error per component of the standardised targets, of which a vector has
three and a tensor nine, whatever is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

import equiscale as es
from equiscale import actions
from equiscale.data import xtb
from equiscale.data.graphs import TURNED, Graph
from equiscale.models.quantity_head import QuantityNetwork, with_quantities
from equiscale.models.spherical_transformer import SphericalTransformer
from equiscale.tasks.attention_scores import attention_score
from equiscale.tasks.augmentations import AUGMENTATIONS
from equiscale.tasks.force_field import model_of
from equiscale.tasks.measure_names import parse_measure
from equiscale.tasks.molecule_sets import batches
from equiscale.tasks.property_scores import Property, property_score
from equiscale.tasks.quantity_sets import QuantityGraphs, load
from equiscale.tasks.task import Pair, Streamed, Task, first_of

ACTIONS = {"scalars": es.scalars, "vectors": es.vectors, "tensors": es.tensors(2)}
Labels = Mapping[str, Float[Array, "n ..."]]


def absolute(prediction: Labels, labels: Labels) -> Float[Array, ""]:
    """Mean over molecules and quantities of the distance: of scalars the absolute error, which is published."""
    of_kinds = []
    for kind, wanted in labels.items():
        square = jnp.square(prediction[kind] - wanted)
        square = square.reshape(*wanted.shape[:2], -1).sum(-1)
        # A norm's slope at zero is not finite.
        of_kinds.append(jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0))
    return jnp.concatenate(of_kinds, axis=1).mean()


def squares(prediction: Labels, labels: Labels) -> Float[Array, ""]:
    """Mean over molecules and components of the squared error, as it is decomposed."""
    errors = jax.tree.map(lambda p, y: jnp.square(p - y).sum(), dict(prediction), dict(labels))
    return sum(jax.tree.leaves(errors)) / sum(y.size for y in jax.tree.leaves(labels))


LOSSES: dict[str, Callable[[Labels, Labels], Float[Array, ""]]] = {"absolute": absolute, "squares": squares}


class QuantityExperiment(NamedTuple):
    """A configured task with what its report and its use need besides."""

    task: Task
    model: QuantityNetwork
    constants: Mapping[str, Any]  # what predictions are to be read with, by property; kept in the run folder
    reports: tuple[str, ...]  # where the data is from and what was left out


def make_task(
    train: Sequence[QuantityGraphs | Streamed],
    validation: QuantityGraphs,
    *,
    properties: Sequence[Property],
    model: QuantityNetwork,
    loss: str = "absolute",
    augmentation: str = "none",
    measure: es.Measure,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on molecules whose labels are the targets of `properties`.

    The training loss is one of `LOSSES`, and what a model adds of its own in the collection "losses".
    `augmentation` turns training molecules, with their labels, by one of `augmentations.AUGMENTATIONS`. Raises
    ValueError for an unknown loss or augmentation, and for a model that predicts other quantities.
    """
    for name, value, known in (("loss", loss, LOSSES), ("augmentation", augmentation, AUGMENTATIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
    turn, error_of = AUGMENTATIONS[augmentation], LOSSES[loss]
    example = first_of(train[0], 1)
    acts = {kind: ACTIONS[kind] for kind in example.labels}
    head = model.head
    made = {"scalars": len(head.scalars), "vectors": head.n_vectors, "tensors": head.n_tensors}
    wanted = {kind: example.labels[kind].shape[1] if kind in acts else 0 for kind in made}
    if made != wanted:
        raise ValueError(f"the model predicts {made}, and the labels are {wanted}: give its head as many of each")
    graph: Graph = jax.tree.map(jnp.asarray, example.graph)
    _, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))

    def init(key):
        return model.init(key, graph)["params"]

    def predict(params, graph: Graph) -> Labels:
        return model.apply({"params": params}, graph)

    def sample(rows: QuantityGraphs, key) -> QuantityGraphs:
        if turn is None:
            return rows
        g = jax.vmap(turn)(jax.random.split(key, len(rows.weight)))
        return rows._replace(graph=actions.apply(TURNED, g, rows.graph), labels=actions.apply(acts, g, rows.labels))

    def training_loss(params, rows: QuantityGraphs, key):
        rngs = {"dropout": key, "points": jax.random.fold_in(key, 1)}
        prediction, sown = model.apply({"params": params}, rows.graph, train=True, rngs=rngs, mutable=["losses"])
        return error_of(prediction, rows.labels) + sum(jax.tree.leaves(sown))

    def pair(rows: QuantityGraphs) -> Pair:
        return Pair(rows.graph, rows.labels, rows.weight)

    symmetry = es.Symmetry(measure, act_in=TURNED, act_out=acts)
    scores = {"properties": property_score(predict, pair, symmetry, properties, element_key)}
    if isinstance(model.model, SphericalTransformer) and model.model.attends:
        scores["attention"] = attention_score(model)
    return Task(
        name=f"predict quantities, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=training_loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=symmetry,
        element_key=element_key,
        scores=scores,
    )


def network_of(
    model: nn.Module, properties: Sequence[Property], intensive: Sequence[str] = (), **fields
) -> QuantityNetwork:
    """A model with a head for these properties; scalars that are `intensive` are means over atoms, others are sums.

    `fields` are further ones of `QuantityHead`. Raises ValueError for an intensive name that is neither one of these
    properties nor one that GFN2-xTB gives.
    """
    unknown = [name for name in intensive if name not in {p.name for p in properties} | xtb.QUANTITIES.keys()]
    if unknown:
        raise ValueError(f"intensive: {', '.join(unknown)} is none of {', '.join(p.name for p in properties)}")
    kinds = [p.kind for p in properties]
    return with_quantities(
        model,
        scalars=tuple("mean" if p.name in intensive else "sum" for p in properties if p.kind == "scalar"),
        n_vectors=kinds.count("vector"),
        n_tensors=kinds.count("tensor"),
        **fields,
    )


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> QuantityExperiment:
    """The configured task with one of its augmentations; molecules made here come from the cache where it has them.

    Raises what `model_of`, `parse_measure`, `quantity_sets.load`, `network_of` and `make_task` raise.
    """
    model, measure = model_of(config), parse_measure(config.measure)
    sets = load(config, k=config.graph.neighbours, cutoff=config.graph.cutoff, cache_dir=cache_dir)
    network = network_of(model, sets.properties, config.intensive, **config.head.to_dict())
    task = make_task(
        sets.train,
        sets.validation,
        properties=sets.properties,
        model=network,
        loss=config.loss,
        augmentation=augmentation,
        measure=measure,
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    constants = {
        p.name: {"unit": p.unit, "mean": sets.standard.mean[p.name], "scale": p.scale} for p in sets.properties
    }
    return QuantityExperiment(task, network, constants, sets.reports)
