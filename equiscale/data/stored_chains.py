"""Protein chains that stay on disk: written once from any reader, read by row into memory or into batches."""

import dataclasses
import os
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Int

from equiscale.data.chains import ChainRecord, Chains, Limits, breaks_of, checked
from equiscale.data.molecules import BadMolecule, Skipped, tally
from equiscale.data.stored import StoredSet, open_set, write_set
from equiscale.data.stored_molecules import compound_label, split_labels

NAME = 32  # bytes of a name that are kept
FIELDS = ("positions", "index", "breaks", "letters", "name", "cluster", "resolution")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredChains:
    """Rows of a stored set of chains, in that order; what `Chains` tells of all without reading them."""

    set: StoredSet
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"StoredChains({len(self):,} of up to {self.n_residues.max(initial=0)} residues, {self.source})"

    @property
    def source(self) -> str:
        return self.set.source

    @property
    def n_residues(self) -> Int[np.ndarray, " n"]:
        return self.set.lengths[self.rows]

    @property
    def clusters(self) -> np.ndarray:
        """A label of each chain's cluster, uint64 [n]."""
        return self.set.arrays["cluster"][self.rows]

    @property
    def resolutions(self) -> np.ndarray:
        """In angstrom, float32 [n], NaN where not known."""
        return self.set.arrays["resolution"][self.rows]

    def select(self, indices) -> "StoredChains":
        """Those of an index array or a boolean mask, still on disk."""
        return dataclasses.replace(self, rows=self.rows[indices])

    def subset(self, indices, length: int | None = None) -> Chains:
        """Those of an index array, a slice or a boolean mask, in memory, padded to `length`, by default the longest.

        Raises ValueError naming a chain longer than `length`.
        """
        rows = self.rows[indices]
        found = self.set.read(rows, length or int(self.set.lengths[rows].max(initial=1)))
        return Chains(
            found["positions"],
            found["index"],
            found["breaks"],
            tuple(name.decode() for name in found["name"].tolist()),
            tuple(f"{label:016x}" for label in found["cluster"].tolist()),
            tuple(bytes(letters[letters != 0]).decode() for letters in found["letters"]),
            self.source,
        )


def split_clusters(chains: StoredChains, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (train, validation), each ascending, with whole clusters on either side, as `split_compounds`."""
    return split_labels(chains.clusters, validation, seed, "chains", "clusters")


def open_chains(folder: str | os.PathLike) -> StoredChains:
    """Open what `write_chains` wrote. Raises what `open_set` raises, and ValueError for a set of other things."""
    stored = open_set(folder)
    if not set(FIELDS) <= set(stored.fields):
        raise ValueError(f"{folder} holds {', '.join(stored.fields)}: no set of chains, which has {', '.join(FIELDS)}")
    return StoredChains(stored, np.arange(len(stored)))


def write_chains(
    folder: str | os.PathLike,
    records: Iterable[ChainRecord | BadMolecule],
    source: str,
    limits: Limits | None = None,
    tell: Callable[[BadMolecule], None] | None = None,
) -> tuple[StoredChains, Skipped]:
    """Write chains to a new folder as they come; bad ones are left out and counted by reason.

    `limits` are by default the published ones, and `tell` is called with each bad one. A chain without a cluster is
    one by itself. Of names the last 32 bytes are kept. Raises what `write_set` raises, and ValueError with the report
    when no chain is left.
    """
    outcomes: list[str | None] = []

    def examples():
        for record in checked(records, outcomes, limits or Limits(), tell):
            letters = np.zeros(len(record.numbers), np.uint8)
            letters[: len(record.sequence)] = np.frombuffer(record.sequence.encode("ascii"), np.uint8)
            ragged = {
                "positions": record.positions,
                "index": record.numbers,
                "breaks": breaks_of(record.positions),
                "letters": letters,
            }
            yield (
                ragged,
                {
                    "name": np.array(record.name.encode()[-NAME:], f"S{NAME}"),
                    "cluster": compound_label(record.name if record.cluster is None else record.cluster),
                    "resolution": np.float32(np.nan if record.resolution is None else record.resolution),
                },
            )
        if None not in outcomes:
            raise ValueError(f"no chain left of {source}: {tally(outcomes)}")

    stored = write_set(folder, examples(), source)
    return StoredChains(stored, np.arange(len(stored))), tally(outcomes)
