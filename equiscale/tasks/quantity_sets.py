"""Molecules with quantities as graph networks take them: split, standardised, with neighbours, in shape buckets."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from equiscale.data import xtb, xtb_quantities
from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.graphs import Graph
from equiscale.data.molecules import Molecules, centred, split
from equiscale.data.neighbours import Edges, build
from equiscale.data.properties import QUANTITIES
from equiscale.data.stored_molecules import StoredMolecules
from equiscale.tasks.labelled_molecules import labelled
from equiscale.tasks.molecule_sets import MoleculeSplit, load_stored
from equiscale.tasks.property_scores import Property
from equiscale.tasks.property_targets import Standard, describe, quantities_of
from equiscale.tasks.task import Streamed


class QuantityGraphs(NamedTuple):
    """Molecules as arrays; `labels` are standardised: see `property_targets`. `weight` 0 marks padding."""

    graph: Graph
    labels: Mapping[str, Float[Array, "n ..."]]
    weight: Float[Array, " n"]


class QuantitySets(NamedTuple):
    """What a config asks for: training sets in shape buckets, molecules that are measured, and what the labels are."""

    train: list[QuantityGraphs | Streamed]
    validation: QuantityGraphs
    properties: tuple[Property, ...]
    standard: Standard
    reports: tuple[str, ...]


def load(config: ConfigDict, *, k: int, cutoff: float, cache_dir: str | None = None) -> QuantitySets:
    """The molecules of a config, from its folder or RDKit's compounds with quantities by GFN2-xTB, as graphs of `k`
    neighbours within `cutoff` angstrom; of the same fields, the same molecules.

    Molecules of which one of `config.properties` is not known are left out. Raises what `load_stored`,
    `xtb_quantities.load`, the splits, `labelled` and `build` raise.
    """
    data = config.data
    found = _stored(config) if data.folder else _made(config, cache_dir)
    train, labels, validation, known, standard, left_out = labelled(config, found)
    held_out, edges = graphs(validation, known, k=k, cutoff=cutoff)
    lengths = bucket_lengths(train.n_atoms, data.buckets)
    sets = []
    for rows, length in zip(bucket_rows(train.n_atoms, lengths), lengths, strict=True):
        of_rows = {kind: values[rows] for kind, values in labels.items()}
        if isinstance(train, StoredMolecules):
            sets.append(_streamed(train.select(rows), of_rows, length, k=k, cutoff=cutoff))
        else:
            made, more = graphs(train.subset(rows), of_rows, k=k, cutoff=cutoff, width=length)
            sets.append(made)
            edges = edges.join(more)
    units = QUANTITIES if data.folder else QUANTITIES | xtb.QUANTITIES
    reports = (
        *found.reports,
        *left_out,
        f"{len(train):,} molecules to train on in buckets of {', '.join(map(str, lengths))} atoms, "
        f"{len(validation):,} measured",
        f"neighbours within {cutoff:g} angstrom{' of those measured' if data.folder else ''}: {edges}",
    )
    properties = describe(quantities_of(train, config.properties, units), standard)
    return QuantitySets(sets, jax.tree.map(jnp.asarray, held_out), properties, standard, reports)


def _stored(config: ConfigDict) -> MoleculeSplit:
    common = {"validation": config.data.validation, "seed": config.seed}
    return load_stored(config.data.folder, None, most_validation=config.evaluation.molecules, **common)


def _made(config: ConfigDict, cache_dir: str | None) -> MoleculeSplit:
    data = config.data
    settings = {"max_atoms": data.max_atoms, "seed": data.seed, "cache_dir": cache_dir}
    molecules, report = xtb_quantities.load(data.molecules, **settings)
    train, held_out = split(molecules, data.validation, config.seed)
    return MoleculeSplit(molecules.subset(train), molecules.subset(held_out), (f"{molecules.source}: {report}",))


def graphs(
    molecules: Molecules, labels: Mapping[str, np.ndarray], *, k: int, cutoff: float, width: int | None = None
) -> tuple[QuantityGraphs, Edges]:
    """Molecules as host arrays with their neighbours, centred, padded to `width` atoms (default: as they are), and
    their edges. Raises what `build` raises.
    """
    names = molecules.names
    return _graphs(molecules.positions[:, :width], molecules.species[:, :width], labels, names, k=k, cutoff=cutoff)


def _graphs(positions, species, labels: Mapping[str, Any], names=None, **limits) -> tuple[QuantityGraphs, Edges]:
    graph, edges = build(centred(positions, species), species, names=names, **limits)
    return QuantityGraphs(graph, dict(labels), np.ones(len(species), np.float32)), edges


def _streamed(molecules: StoredMolecules, labels: Mapping[str, np.ndarray], length: int, **limits) -> Streamed:
    def read(indices: np.ndarray) -> QuantityGraphs:
        positions, species = molecules.read(indices, length)
        return _graphs(positions, species, {kind: values[indices] for kind, values in labels.items()}, **limits)[0]

    return Streamed(len(molecules), read)
