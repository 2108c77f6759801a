"""Frames with energies and forces in memory: padded arrays, checked where they come in.

Readers make `ForceRecord`s, with a `BadMolecule` in the place of each that cannot be read; `from_records` stops at the
first bad one, `from_records_skipping` leaves bad ones out and says how many and why. Whether the numbers are in these
units, and forces rather than gradients, is for `equiscale.data.force_units` to say.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial.distance import pdist

from equiscale.data.molecules import BadMolecule, Molecules, Skipped, check_record, split, tally
from equiscale.data.neighbours import OVERLAP
from equiscale.data.stored_molecules import formula


class ForceRecord(NamedTuple):
    """One frame as a reader found it: angstrom, eV and eV/angstrom, None for what the file does not say.

    `group` names the molecule or the trajectory, so that its frames stay together in a split; `where` is what errors
    call the frame. `fixed` marks atoms held in place while the frames were made, bool [n_atoms]; `cell` [3, 3] holds
    lattice vectors in rows and `pbc` [3] along which of them the frame repeats. `charge` in e and `unpaired`
    electrons are those of the whole frame.
    """

    where: str
    group: str
    elements: np.ndarray
    positions: np.ndarray
    energy: float | None = None
    forces: np.ndarray | None = None
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None
    fixed: np.ndarray | None = None
    charge: int = 0
    unpaired: int = 0


class Labelled(NamedTuple):
    """One frame that passed `check_frame`: float32 arrays but for the energy, nothing padded, nothing missing."""

    group: str
    species: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    fixed: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ForceFrames:
    """n frames padded to one size.

    `positions` float32 [n, max_atoms, 3] in angstrom, `species` int32 [n, max_atoms] atomic numbers with 0 for
    padding, `energies` float64 [n] in eV, since totals of 1e4 eV differ by 1e-3, `forces` float32 [n, max_atoms, 3] in
    eV/angstrom, `fixed` bool [n, max_atoms], `groups` n names of molecules or trajectories, `source` a line on where
    they come from. Of periodic frames `cell` float32 [n, 3, 3] in angstrom, vectors in rows, and `pbc` bool [n, 3];
    both None where no frame is periodic.

    Raises ValueError when shapes or dtypes disagree. The values themselves are checked by `from_records`.
    """

    positions: np.ndarray
    species: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    fixed: np.ndarray
    groups: tuple[str, ...]
    source: str
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None

    def __post_init__(self):
        Molecules(self.positions, self.species, self.groups, self.source)  # checks what they share
        n, width = self.species.shape
        wanted = {
            "energies": (self.energies, (n,), np.float64),
            "forces": (self.forces, (n, width, 3), np.float32),
            "fixed": (self.fixed, (n, width), bool),
        }
        if (self.cell is None) != (self.pbc is None):
            raise ValueError("give cell and pbc together, or neither")
        if self.cell is not None:
            wanted |= {"cell": (self.cell, (n, 3, 3), np.float32), "pbc": (self.pbc, (n, 3), bool)}
        for name, (array, shape, dtype) in wanted.items():
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{name} are {array.dtype} {array.shape}: give {np.dtype(dtype)} {shape}, as species {(n, width)}"
                )

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        groups = f"{len(set(self.groups)):,} groups"
        return f"ForceFrames({len(self):,} of up to {self.species.shape[1]} atoms in {groups}, {self.source})"

    @property
    def n_atoms(self) -> np.ndarray:
        """Real atoms of each frame, int [n]."""
        return np.count_nonzero(self.species, axis=1)

    @property
    def force_rms(self) -> float:
        """Root mean square over all components of all real atoms, eV/angstrom."""
        return float(np.sqrt(np.mean(np.square(self.forces[self.species > 0], dtype=float))))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name, for a batch or a file; `cell` and `pbc` where there are some."""
        fields = ("positions", "species", "energies", "forces", "fixed", "cell", "pbc")
        return {name: getattr(self, name) for name in fields if getattr(self, name) is not None}

    def molecules(self) -> Molecules:
        """The frames without labels, named by their groups."""
        return Molecules(self.positions, self.species, self.groups, self.source)

    def records(self) -> Iterator[ForceRecord]:
        """The frames one by one, without padding, named by their row."""
        for row, n in enumerate(self.n_atoms):
            lattice = (None, None) if self.cell is None else (self.cell[row], self.pbc[row])
            yield ForceRecord(
                f"{self.source}, row {row}",
                self.groups[row],
                self.species[row, :n],
                self.positions[row, :n],
                self.energies[row],
                self.forces[row, :n],
                *lattice,
                self.fixed[row, :n],
            )

    def subset(self, indices) -> "ForceFrames":
        """The frames of an index array or a boolean mask [n], in that order, padded as before.

        Raises IndexError for an index out of range or a mask of another length.
        """
        rows = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else int)]
        chosen = {name: array[rows] for name, array in self.arrays().items()}
        return ForceFrames(**chosen, groups=tuple(self.groups[i] for i in rows), source=self.source)


def evenly(n: int, most: int) -> np.ndarray:
    """Up to `most` of the indices below n, evenly spread, so that they are of many molecules."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))


def split_frames(
    frames: ForceFrames, validation: float, seed: int, by: Literal["group", "formula", "frame"] = "group"
) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (train, validation), each ascending: whole molecules, whole formulas or single frames on a side.

    Raises what `molecules.split` raises: one molecule's trajectory, a single group, splits by "frame" only.
    """
    labels = {
        "group": lambda: frames.groups,
        "formula": lambda: [formula(species[species > 0]) for species in frames.species],
        "frame": lambda: range(len(frames)),
    }
    if by not in labels:
        raise ValueError(f"by={by!r}: split by {', '.join(labels)}")
    return split(frames.molecules(), validation, seed, labels[by]())


def check_frame(
    record: ForceRecord | BadMolecule, max_atoms: int | None = None, max_force: float | None = None, ions: bool = False
) -> Labelled:
    """The arrays of a good record.

    Raises BadMolecule for one that is not: one a reader could not read, what `check_record` refuses, a missing label,
    a number that is not finite, shapes that disagree, atoms on top of each other, a periodic frame without a cell, a
    force component beyond `max_force` in eV/angstrom, and, unless `ions`, a net charge, which no array here would tell.
    """
    if isinstance(record, BadMolecule):
        raise record
    where, n = record.where, len(record.elements)
    species, positions = check_record(where, record.elements, record.positions, max_atoms)
    if record.charge and not ions:
        raise BadMolecule("carrying a net charge", f"{where} has charge {record.charge:+d}: leave it out or allow ions")
    for name, value in (("energy", record.energy), ("forces", record.forces)):
        if value is None:
            raise BadMolecule(f"without {name}", f"{where} has no {name}: name the right key, or label it")
    try:
        energy = float(record.energy)
        with np.errstate(over="ignore"):
            forces = np.asarray(record.forces, np.float32)
    except (TypeError, ValueError) as error:
        raise BadMolecule("with labels that are no numbers", f"{where}: {error}") from error
    if not np.isfinite(energy):
        raise BadMolecule("with an energy that is not finite", f"{where} has energy {energy}: mend or leave it out")
    if forces.shape != (n, 3):
        raise BadMolecule(
            "with shapes that disagree", f"{where} has {n} atoms and forces of shape {forces.shape}: give [{n}, 3]"
        )
    if not np.isfinite(forces).all():
        atom = int(np.argmin(np.isfinite(forces).all(axis=1)))
        raise BadMolecule(
            "with a force that is not finite",
            f"{where}, atom {atom}: force {forces[atom].tolist()} is not finite; mend or leave out this frame",
        )
    if max_force is not None and np.abs(forces).max() > max_force:
        raise BadMolecule(
            f"with a force beyond {max_force:g} eV/angstrom",
            f"{where} has a force of {np.abs(forces).max():.3g} eV/angstrom: raise max_force={max_force:g} to keep it",
        )
    near = pdist(positions).min(initial=np.inf)
    if near < OVERLAP:
        raise BadMolecule(
            "with overlapping atoms", f"{where} has two atoms {near:.2g} angstrom apart: mend or leave out this frame"
        )
    fixed = np.zeros(n, bool) if record.fixed is None else np.asarray(record.fixed, bool)
    return Labelled(record.group, species, positions, energy, forces, *_lattice(record), fixed)


def _lattice(record: ForceRecord) -> tuple[np.ndarray, np.ndarray]:
    """Cell [3, 3] and directions [3] of a periodic frame, zero and False of any other."""
    pbc = np.zeros(3, bool) if record.pbc is None else np.asarray(record.pbc, bool)
    if not pbc.any():
        return np.zeros((3, 3), np.float32), pbc
    cell = np.zeros((3, 3)) if record.cell is None else np.asarray(record.cell)
    lengths = np.linalg.norm(cell, axis=1)
    if not np.isfinite(cell).all() or not (lengths[pbc] > 0).all():
        raise BadMolecule(
            "periodic without a cell",
            f"{record.where} repeats along {pbc.tolist()} and has cell {cell.tolist()}: give lattice vectors",
        )
    return cell.astype(np.float32), pbc


def checked(
    records: Iterable[ForceRecord | BadMolecule],
    outcomes: list[str | None],
    tell: Callable[[BadMolecule], None] | None = None,
    **limits,
) -> Iterator[Labelled]:
    """The good ones of `records`; to `outcomes` goes None for each of them and the reason for each other.

    `tell` is called with every other, as is.
    """
    for record in records:
        try:
            frame = check_frame(record, **limits)
        except BadMolecule as error:
            outcomes.append(error.reason)
            if tell is not None:
                tell(error)
        else:
            outcomes.append(None)
            yield frame


def from_records(records: Iterable[ForceRecord | BadMolecule], source: str, **limits) -> ForceFrames:
    """Frames from records, each of them good; `limits` are those of `check_frame`.

    Raises ValueError naming frame, atom and value of the first that is not, or if there is no record.
    """
    return pad((check_frame(record, **limits) for record in records), source)


def from_records_skipping(
    records: Iterable[ForceRecord | BadMolecule], source: str, **limits
) -> tuple[ForceFrames, Skipped]:
    """As `from_records`, with bad records left out and counted by reason.

    Raises ValueError with the report when none is left.
    """
    outcomes: list[str | None] = []
    good = list(checked(records, outcomes, **limits))
    if not good:
        raise ValueError(f"no frame left of {source}: {tally(outcomes)}")
    return pad(good, source), tally(outcomes)


def pad(labelled: Iterable[Labelled], source: str) -> ForceFrames:
    """Frames padded to the longest. Raises ValueError if there is none."""
    labelled = list(labelled)
    if not labelled:
        raise ValueError(f"no frame in {source}: give at least one")
    n, width = len(labelled), max(len(frame.species) for frame in labelled)
    arrays = {
        "positions": np.zeros((n, width, 3), np.float32),
        "species": np.zeros((n, width), np.int32),
        "forces": np.zeros((n, width, 3), np.float32),
        "fixed": np.zeros((n, width), bool),
    }
    for row, frame in enumerate(labelled):
        for name, array in arrays.items():
            array[row, : len(frame.species)] = getattr(frame, name)
    pbc = np.stack([frame.pbc for frame in labelled])
    if pbc.any():
        arrays |= {"cell": np.stack([frame.cell for frame in labelled]), "pbc": pbc}
    energies = np.array([frame.energy for frame in labelled])
    return ForceFrames(**arrays, energies=energies, groups=tuple(frame.group for frame in labelled), source=source)
