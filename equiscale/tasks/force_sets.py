"""Frames with forces as tasks take them: split by molecule, standardised, with their neighbours, in shape buckets."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from equiscale.data import xtb_set
from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.element_references import Scale, fit_references, fit_scale
from equiscale.data.force_frames import ForceFrames, evenly, split_frames
from equiscale.data.graphs import Graph
from equiscale.data.molecules import SYMBOLS, centred
from equiscale.data.neighbours import Edges, build
from equiscale.data.stored_forces import StoredForces, open_forces
from equiscale.data.stored_molecules import split_compounds
from equiscale.tasks.molecule_sets import fraction_of
from equiscale.tasks.task import Streamed

AT_ONCE = 10_000  # frames of a set on disk in memory: those that the scale is fitted to, and parts of the rest


class LabelledGraphs(NamedTuple):
    """Frames as arrays; `weight` 0 marks padding of the last batch.

    Labels are standardised (see `Scale`): energies have mean 0 and variance 1, force components mean square 1. Forces
    count where there is an atom that was free to move.
    """

    graph: Graph
    energies: Float[Array, " n"]
    forces: Float[Array, "n atoms 3"]
    counted: Bool[Array, "n atoms"]
    weight: Float[Array, " n"]


class ForceSets(NamedTuple):
    """What a config asks for: training sets in shape buckets, frames that are measured, their scale, and reports."""

    train: list[LabelledGraphs | Streamed]
    validation: LabelledGraphs
    scale: Scale
    reports: tuple[str, ...]


def load(config: ConfigDict, *, k: int, cutoff: float, cache_dir: str | os.PathLike | None = None) -> ForceSets:
    """The frames of a config, from its folder or RDKit's compounds labelled by GFN2-xTB, as graphs of `k` neighbours
    within `cutoff` angstrom; of the same fields, the same frames.

    References and scale are fitted to all training frames, so that losses of all fractions are in one unit, and
    validation frames of elements that they lack left out. Raises what `xtb_set.load`, `open_forces`, the splits,
    `fit_scale` and `build` raise, and ValueError when every validation frame has such an element.
    """
    data = config.data
    frames, held_out, told = _stored(config) if data.folder else _made(config, cache_dir)
    on_disk = isinstance(frames, StoredForces)
    scale = _scale_on_disk(frames) if on_disk else fit_scale(frames)
    frames = fraction_of(frames, data.fraction, config.seed)
    held_out, unknown = of_known_elements(held_out, scale)
    measured, edges = graphs(held_out, scale, k=k, cutoff=cutoff)
    lengths = bucket_lengths(frames.n_atoms, data.buckets)
    rows = bucket_rows(frames.n_atoms, lengths)
    if on_disk:
        parts = zip(rows, lengths, strict=True)
        train = [_streamed(frames.select(r), length, scale, k=k, cutoff=cutoff) for r, length in parts]
    else:
        made = [
            graphs(frames.subset(r), scale, k=k, cutoff=cutoff, width=n) for r, n in zip(rows, lengths, strict=True)
        ]
        train = [one for one, _ in made]
        for _, more in made:
            edges = edges.join(more)
    reports = (
        *told,
        f"{len(frames):,} frames to train on in buckets of {', '.join(map(str, lengths))} atoms, "
        f"{len(held_out):,} measured{unknown}",
        f"references: {scale.references}",
        f"forces over {scale.force_std:.3f} eV/angstrom, energies over {scale.std:.3f} eV",
        f"neighbours within {cutoff:g} angstrom{' of frames measured' if on_disk else ''}: {edges}",
    )
    return ForceSets(train, jax.tree.map(jnp.asarray, measured), scale, reports)


def _scale_on_disk(stored: StoredForces) -> Scale:
    """References of all frames, so that no rare element is missed, and the scale of some of them."""
    parts = (stored.frames(slice(i, i + AT_ONCE)) for i in range(0, len(stored), AT_ONCE))
    references = fit_references((part.species, part.energies) for part in parts)
    return fit_scale(stored.frames(evenly(len(stored), AT_ONCE)), references)


def of_known_elements(held_out: ForceFrames, scale: Scale) -> tuple[ForceFrames, str]:
    """The frames whose elements were all trained on, and what was left out. Raises ValueError when none is left."""
    unknown = np.setdiff1d(held_out.species, (0, *scale.references.elements))
    lacking = np.isin(held_out.species, unknown).any(axis=1)
    if not lacking.any():
        return held_out, ""
    named = f"{', '.join(SYMBOLS[z] for z in unknown)}, which no training frame holds"
    if lacking.all():
        raise ValueError(f"every validation frame has {named}: train on more, or split otherwise (another data.seed)")
    return held_out.subset(~lacking), f" ({lacking.sum():,} left out for {named})"


def _made(config: ConfigDict, cache_dir) -> tuple[ForceFrames, ForceFrames, tuple[str, ...]]:
    data = config.data
    frames, report = xtb_set.load(data.frames, max_atoms=data.max_atoms, seed=data.seed, cache_dir=cache_dir)
    train, held_out = split_frames(frames, data.validation, config.seed)
    chosen = evenly(len(held_out), config.evaluation.molecules)
    return frames.subset(train), frames.subset(held_out[chosen]), (f"{frames.source}: {report}",)


def _stored(config: ConfigDict) -> tuple[StoredForces, ForceFrames, tuple[str, ...]]:
    stored = open_forces(config.data.folder)
    train, held_out = split_compounds(stored, config.data.validation, config.seed)
    chosen = evenly(len(held_out), config.evaluation.molecules)
    told = f"{stored.source}: {len(stored):,} frames in {config.data.folder}"
    return stored.select(train), stored.frames(held_out[chosen]), (told,)


def graphs(
    frames: ForceFrames, scale: Scale, *, k: int, cutoff: float, width: int | None = None
) -> tuple[LabelledGraphs, Edges]:
    """Frames as host arrays with their neighbours, padded to `width` atoms (default: as they are), and their edges.

    Frames are moved to their centroid: forces do not notice, and turning them rounds less. Raises what `build` and
    `References.total` raise.
    """
    species = frames.species[:, :width]
    positions = centred(frames.positions[:, :width], species).astype(np.float32)
    periodic = {"cell": frames.cell, "periodic": frames.pbc} if frames.cell is not None else {}
    graph, edges = build(positions, species, k=k, cutoff=cutoff, **periodic, names=frames.groups)
    energies = scale.energies(frames.energies, species).astype(np.float32)
    counted = (species > 0) & ~frames.fixed[:, :width]
    ones = np.ones(len(frames), np.float32)
    return LabelledGraphs(graph, energies, scale.forces(frames.forces[:, :width]), counted, ones), edges


def _streamed(frames: StoredForces, length: int, scale: Scale, *, k: int, cutoff: float) -> Streamed:
    def read(indices: np.ndarray) -> LabelledGraphs:
        return graphs(frames.frames(indices, length), scale, k=k, cutoff=cutoff)[0]

    return Streamed(len(frames), read)
