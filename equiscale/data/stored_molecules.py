"""Molecules that stay on disk: written once from any reader, read by row into memory or into batches."""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Int

from equiscale.data.molecules import (
    SYMBOLS,
    BadMolecule,
    Molecules,
    Record,
    Skipped,
    check_record,
    from_records,
    tally,
)
from equiscale.data.stored import StoredSet, open_set, write_set

CHUNK = 65_536  # molecules looked at together, where all of them have to be
BLOCK = 4_096  # written together where something is computed of them


@dataclasses.dataclass(frozen=True, eq=False)
class StoredMolecules:
    """Rows of a stored set of molecules, in that order; what `Molecules` tells of all without reading them."""

    set: StoredSet
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def source(self) -> str:
        return self.set.source

    @property
    def n_atoms(self) -> Int[np.ndarray, " n"]:
        return self.set.lengths[self.rows]

    @property
    def compounds(self) -> np.ndarray:
        """A label of each molecule's compound, uint64 [n]."""
        return self.set.arrays["compound"][self.rows]

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What else is stored of each molecule, by name, `[n, ...]`: properties and labels."""
        fields = {name for name, field in self.set.fields.items() if not field.ragged} - {"compound"}
        return {name: self.set.arrays[name][self.rows] for name in sorted(fields)}

    def select(self, indices) -> "StoredMolecules":
        """Those of an index array or a boolean mask, still on disk."""
        return dataclasses.replace(self, rows=self.rows[indices])

    def read(self, indices, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions float32 [batch, length, 3] in angstrom and species int32 [batch, length]."""
        found = self.set.read(self.rows[indices], length)
        return found["positions"], found["species"].astype(np.int32)

    def subset(self, indices) -> Molecules:
        """Those of an index array or a boolean mask, in memory with their columns, padded to the longest; named by
        their row.
        """
        some = self.select(np.arange(len(self))[indices])
        rows = np.arange(len(some))
        positions, species = some.read(rows, max(some.n_atoms.max(initial=1), 1))
        return Molecules(positions, species, tuple(f"row {i}" for i in some.rows), self.source, some.columns)

    def mask(self, keep: Callable[[Molecules], tuple[np.ndarray, Skipped]]) -> tuple[np.ndarray, Skipped]:
        """What a filter of `Molecules` says of all, some at a time: a mask [n] and one report."""
        found = [keep(self.subset(slice(i, i + CHUNK))) for i in range(0, len(self), CHUNK)]
        reasons: dict[str, int] = {}
        for _, report in found:
            for reason, count in report.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        mask = np.concatenate([m for m, _ in found])
        return mask, Skipped(int(mask.sum()), reasons)


def open_molecules(folder: str | os.PathLike) -> StoredMolecules:
    """Open what `write_molecules` wrote. Raises what `open_set` raises, and ValueError for a set of other things."""
    stored = open_set(folder)
    wanted = {"positions", "species", "compound"}
    if not wanted <= set(stored.fields):
        raise ValueError(
            f"{folder} holds {', '.join(stored.fields)}: no set of molecules, which has {', '.join(wanted)}"
        )
    return StoredMolecules(stored, np.arange(len(stored)))


def write_molecules(
    folder: str | os.PathLike,
    records: Iterable[Record | BadMolecule],
    source: str,
    compound: Callable[[str, np.ndarray], str],
    columns: Callable[[Molecules], Mapping[str, np.ndarray]] | None = None,
    tell: Callable[[BadMolecule], None] | None = None,
) -> tuple[StoredMolecules, Skipped]:
    """Write molecules to a new folder as they come; bad ones are left out and counted by reason.

    `compound(name, numbers)` labels what must not be split between training and validation, as `formula` does:
    conformers of a compound share it (and so do isomers). `columns(molecules)` gives further numbers of each, by name
    `[n, ...]`, NaN where not known; it is asked for some thousand molecules at a time. `tell` is called with each bad
    one. Raises what `write_set` raises, and ValueError for a column with the name of another field.
    """
    outcomes = []

    def good() -> Iterator[Record]:
        for record in records:
            try:
                if isinstance(record, BadMolecule):
                    raise record
                checked = check_record(*record)
            except BadMolecule as error:
                outcomes.append(error.reason)
                if tell is not None:
                    tell(error)
                continue
            outcomes.append(None)
            yield record[0], *checked

    def examples() -> Iterator:
        molecules = good()
        while block := list(itertools.islice(molecules, BLOCK if columns else 1)):
            found = columns(from_records(block, source)) if columns else {}
            taken = found.keys() & {"positions", "species", "compound"}
            if taken:
                raise ValueError(f"a column cannot be named {', '.join(sorted(taken))}: give it another name")
            for i, (name, numbers, positions) in enumerate(block):
                ragged = {"positions": positions, "species": numbers.astype(np.uint8)}
                whole = {column: np.float32(values[i]) for column, values in found.items()}
                yield ragged, {"compound": compound_label(compound(name, numbers)), **whole}

    stored = write_set(folder, examples(), source)
    return StoredMolecules(stored, np.arange(len(stored))), tally(outcomes)


def compound_label(compound: str) -> np.uint64:
    """A hash of a compound's name, as sets on disk keep it."""
    return np.frombuffer(hashlib.sha256(compound.encode()).digest()[:8], "<u8")[0]


def formula(numbers: Int[np.ndarray, " n_atoms"]) -> str:
    """Elements in the order of their number, with counts: H6C2O1."""
    kinds, counts = np.unique(numbers, return_counts=True)
    return "".join(f"{SYMBOLS[kind]}{count}" for kind, count in zip(kinds, counts, strict=True))


def split_compounds(molecules: StoredMolecules, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (train, validation), each ascending, with whole compounds on either side.

    A compound goes to validation where a hash of (seed, compound) falls below the fraction `validation`: no
    compound's side depends on another's, so that sets can grow.
    Raises ValueError for a fraction out of range, or where either side stays empty.
    """
    hint = "; frames of one compound split as compounds of their own if written so"
    return split_labels(molecules.compounds, validation, seed, "molecules", "compounds", hint)


def split_labels(
    labels: Int[np.ndarray, " n"], validation: float, seed: int, what: str, groups: str, hint: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """`split_compounds` by one uint64 label per row; for errors `what` the rows and `groups` are, and a `hint`."""
    if not 0 < validation < 1:
        raise ValueError(f"validation={validation}: give a fraction between 0 and 1")
    held_out = _mixed(labels, seed) < validation * 2.0**64
    if held_out.all() or not held_out.any():
        raise ValueError(
            f"{len(labels)} {what} of {len(np.unique(labels))} {groups} leave none on one side at "
            f"validation={validation}: add {groups} or change the fraction{hint}"
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _mixed(labels: np.ndarray, seed: int) -> np.ndarray:
    """Uniform uint64 from labels and a seed (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        z = labels + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
