"""Frames with energies and forces that stay on disk: written once from any reader, read by row into batches."""

import dataclasses
import os
from collections.abc import Callable, Iterable

import numpy as np

from equiscale.data.force_frames import ForceFrames, ForceRecord, Labelled, checked
from equiscale.data.molecules import BadMolecule, Skipped, tally
from equiscale.data.stored import open_set, write_set
from equiscale.data.stored_molecules import StoredMolecules, compound_label


@dataclasses.dataclass(frozen=True, eq=False)
class StoredForces(StoredMolecules):
    """Rows of a stored set of labelled frames: molecules, which `split_compounds` splits, with what `frames` adds."""

    def frames(self, indices, length: int | None = None) -> ForceFrames:
        """Those of an index array, a slice or a boolean mask, in memory, padded to `length`, by default the longest."""
        rows = self.rows[indices]
        found = self.set.read(rows, length or max(self.set.lengths[rows].max(initial=1), 1))
        pbc = found.pop("pbc")
        cell = found.pop("cell")
        groups = tuple(f"{label:016x}" for label in found.pop("compound"))
        periodic = {"cell": cell, "pbc": pbc} if pbc.any() else {}
        found["species"] = found["species"].astype(np.int32)
        return ForceFrames(**found, **periodic, groups=groups, source=self.source)


FIELDS = ("positions", "species", "forces", "fixed", "energies", "compound", "cell", "pbc")


def open_forces(folder: str | os.PathLike) -> StoredForces:
    """Open what `write_forces` wrote. Raises what `open_set` raises, and ValueError for a set of other things."""
    stored = open_set(folder)
    if not set(FIELDS) <= set(stored.fields):
        raise ValueError(f"{folder} holds {', '.join(stored.fields)}: no set of forces, which has {', '.join(FIELDS)}")
    return StoredForces(stored, np.arange(len(stored)))


def write_forces(
    folder: str | os.PathLike,
    records: Iterable[ForceRecord | BadMolecule],
    source: str,
    compound: Callable[[Labelled], str] = lambda frame: frame.group,
    tell: Callable[[BadMolecule], None] | None = None,
    **limits,
) -> tuple[StoredForces, Skipped]:
    """Write frames to a new folder as they come; bad ones are left out and counted by reason.

    `compound` labels what must not be split between training and validation, by default a frame's group; `tell` is
    called with each bad one; `limits` are those of `check_frame`.
    Raises what `write_set` raises, and ValueError with the report when no frame is left.
    """
    outcomes: list[str | None] = []

    def examples():
        for frame in checked(records, outcomes, tell, **limits):
            ragged = {
                "positions": frame.positions,
                "species": frame.species.astype(np.uint8),
                "forces": frame.forces,
                "fixed": frame.fixed,
            }
            whole = {"energies": np.float64(frame.energy), "compound": compound_label(compound(frame))}
            yield ragged, whole | {"cell": frame.cell, "pbc": frame.pbc}
        if None not in outcomes:
            raise ValueError(f"no frame left of {source}: {tally(outcomes)}")

    stored = write_set(folder, examples(), source)
    return StoredForces(stored, np.arange(len(stored))), tally(outcomes)
