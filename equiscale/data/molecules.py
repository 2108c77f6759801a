"""Molecules in memory: padded arrays of positions and atomic numbers, checked where they come in.

Padding is at the end of each row: species 0 at the origin. Every reader makes `(name, elements,
coordinates)` records and hands them to `from_records`, which stops at the first bad one, or to
`from_records_skipping`, which leaves bad ones out and says how many and why.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

SYMBOLS = (  # by atomic number; index 0 is padding
    "_ H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb "
    "Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf "
    "Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}

Record = tuple[str, Sequence[int] | Sequence[str] | np.ndarray, Sequence | np.ndarray]


def atomic_number(symbol: str) -> int:
    """1 for "H" ... 118 for "Og". Raises ValueError for anything else."""
    if symbol not in NUMBERS:
        raise ValueError(f"unknown element {symbol!r}: use a symbol as in the periodic table, e.g. 'Cl'")
    return NUMBERS[symbol]


def import_rdkit():
    """`rdkit.Chem`, or an ImportError that says how to get it."""
    try:
        from rdkit import Chem
    except ImportError as error:
        raise ImportError("this needs RDKit: pip install 'equiscale[data]'") from error
    return Chem


@dataclasses.dataclass(frozen=True, eq=False)
class Molecules:
    """n molecules padded to one size.

    `positions` float32 [n, max_atoms, 3] in angstrom, `species` int32 [n, max_atoms] atomic numbers
    with 0 for padding, `names` n SMILES or identifiers, `source` a line on where they come from,
    `columns` what else is known of each, by name, `[n, ...]`: numbers measured or computed elsewhere.

    Raises ValueError when shapes or dtypes disagree. The values themselves are checked by
    `from_records`.
    """

    positions: np.ndarray
    species: np.ndarray
    names: tuple[str, ...]
    source: str
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.species.ndim != 2 or self.positions.shape != (*self.species.shape, 3):
            raise ValueError(
                f"positions {self.positions.shape} and species {self.species.shape} disagree: "
                "give [n, max_atoms, 3] and [n, max_atoms]"
            )
        if self.positions.dtype != np.float32 or self.species.dtype != np.int32:
            raise ValueError(
                f"positions are {self.positions.dtype} and species {self.species.dtype}: give float32 and int32"
            )
        if len(self.names) != len(self.species):
            raise ValueError(f"{len(self.names)} names for {len(self.species)} molecules: give one each")
        for name, column in self.columns.items():
            if len(column) != len(self.species):
                raise ValueError(
                    f"column {name} has {len(column)} rows for {len(self.species)} molecules: give one each"
                )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Molecules({len(self):,} of up to {self.species.shape[1]} atoms, {self.source})"

    @property
    def n_atoms(self) -> np.ndarray:
        """Real atoms of each molecule, int [n]."""
        return np.count_nonzero(self.species, axis=1)

    def subset(self, indices) -> "Molecules":
        """The molecules of an index array or a boolean mask [n], in that order, padded as before.

        Raises IndexError for an index out of range or a mask of another length.
        """
        rows = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else int)]
        names = tuple(self.names[i] for i in rows)
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Molecules(self.positions[rows], self.species[rows], names, self.source, columns)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A filter's report: how many passed, and how many did not for which reason.

    >>> print(Skipped(1_024, {"holding an element outside C H N O F": 120, "leaving the grid": 166}))
    kept 1,024 of 1,310: 166 leaving the grid, 120 holding an element outside C H N O F
    """

    kept: int
    reasons: Mapping[str, int]

    @property
    def total(self) -> int:
        return self.kept + sum(self.reasons.values())

    def __str__(self) -> str:
        by_count = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{count:,} {reason}" for reason, count in by_count)
        return f"kept {self.kept:,} of {self.total:,}" + (f": {listed}" if listed else "")


def tally(outcomes: Iterable[str | None]) -> Skipped:
    """The report on one outcome per item: None where it was kept, else the reason why not."""
    reasons = collections.Counter(outcomes)
    kept = reasons.pop(None, 0)
    return Skipped(kept, dict(reasons))


class BadMolecule(ValueError):
    """A record that cannot become a molecule; `reason` is what a report counts it under."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):  # exceptions are pickled by one argument otherwise
        return type(self), (self.reason, str(self))


def from_records(records: Iterable[Record], source: str, max_atoms: int | None = None) -> Molecules:
    """Molecules from `(name, elements, coordinates)` records, each of them good.

    `elements` are atomic numbers or symbols [n_atoms], `coordinates` [n_atoms, 3] in angstrom. Rows
    are padded to `max_atoms`, by default the longest of these molecules.

    Raises ValueError naming molecule, atom and value: an element that does not exist, a coordinate
    that is NaN or infinite, a molecule without atoms or with more than `max_atoms`, shapes that
    disagree, no record at all.
    """
    names, checked = [], []
    for name, elements, coordinates in records:
        checked.append(check_record(name, elements, coordinates, max_atoms))
        names.append(name)
    if not names:
        raise ValueError(f"no molecule in {source}: give at least one record")
    width = max_atoms or max(len(numbers) for numbers, _ in checked)
    positions = np.zeros((len(names), width, 3), np.float32)
    species = np.zeros((len(names), width), np.int32)
    for row, (numbers, xyz) in enumerate(checked):
        species[row, : len(numbers)] = numbers
        positions[row, : len(numbers)] = xyz
    return Molecules(positions, species, tuple(names), source)


def from_records_skipping(
    records: Iterable[Record], source: str, max_atoms: int | None = None
) -> tuple[Molecules, Skipped]:
    """As `from_records`, with bad records left out and counted by reason.

    Raises ValueError with the report when none is left.
    """
    good, outcomes = [], []
    for name, elements, coordinates in records:
        try:
            good.append((name, *check_record(name, elements, coordinates, max_atoms)))
            outcomes.append(None)
        except BadMolecule as error:
            outcomes.append(error.reason)
    report = tally(outcomes)
    if not good:
        raise ValueError(f"no molecule left of {source}: {report}")
    return from_records(good, source, max_atoms), report


def check_record(name, elements, coordinates, max_atoms: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers int32 [n_atoms] and coordinates float32 [n_atoms, 3] of a good record.

    Raises BadMolecule for one that is not.
    """
    elements = np.asarray(elements)
    if elements.size == 0:
        raise BadMolecule("without atoms", f"molecule {name!r} has no atoms: leave it out")
    if elements.ndim != 1:
        raise BadMolecule(
            "with shapes that disagree",
            f"molecule {name!r} has elements of shape {elements.shape}: give [n_atoms]",
        )
    if max_atoms is not None and len(elements) > max_atoms:
        raise BadMolecule(
            f"with more than {max_atoms} atoms",
            f"molecule {name!r} has {len(elements)} atoms: raise max_atoms={max_atoms} or leave it out",
        )
    if elements.dtype.kind == "U":
        numbers = np.array([NUMBERS.get(symbol, 0) for symbol in elements], np.int32)
    elif elements.dtype.kind in "iu":
        numbers = np.where((elements >= 1) & (elements < len(SYMBOLS)), elements, 0).astype(np.int32)
    else:
        numbers = np.zeros(len(elements), np.int32)
    if not numbers.all():
        atom = int(np.argmin(numbers))
        raise BadMolecule(
            "holding an unknown element",
            f"molecule {name!r}, atom {atom}: unknown element {elements.tolist()[atom]!r}; "
            f"give integers 1 to {len(SYMBOLS) - 1} or symbols such as 'Cl'",
        )
    try:
        with np.errstate(over="ignore"):
            xyz = np.asarray(coordinates, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadMolecule(
            "with coordinates that are no numbers",
            f"molecule {name!r}: coordinates are no [{len(numbers)}, 3] array of numbers: {error}",
        ) from error
    if xyz.shape != (len(numbers), 3):
        raise BadMolecule(
            "with shapes that disagree",
            f"molecule {name!r} has {len(numbers)} elements and coordinates of shape {xyz.shape}: "
            f"give [{len(numbers)}, 3]",
        )
    if not np.isfinite(xyz).all():
        atom = int(np.argmin(np.isfinite(xyz).all(axis=1)))
        raise BadMolecule(
            "with a coordinate that is not finite",
            f"molecule {name!r}, atom {atom}: coordinates {xyz[atom].tolist()} are not finite; "
            "mend or leave out this molecule",
        )
    return numbers, xyz


def centred(positions: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Positions [n, atoms, 3] relative to the unweighted centroid of the real atoms, on the host; padding is at 0."""
    real = (species > 0)[..., None]
    centroid = np.where(real, positions, 0).sum(1, keepdims=True) / np.maximum(real.sum(1, keepdims=True), 1)
    return np.where(real, positions - centroid, 0)


def join(parts: Sequence[Molecules]) -> Molecules:
    """One after the other, padded to the widest; the source is the first's, columns are those that all have."""
    width = max(m.species.shape[1] for m in parts)

    def padded(array):
        return np.pad(array, [(0, 0), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2))

    shared = [name for name in parts[0].columns if all(name in m.columns for m in parts)]
    return Molecules(
        np.concatenate([padded(m.positions) for m in parts]),
        np.concatenate([padded(m.species) for m in parts]),
        tuple(name for m in parts for name in m.names),
        parts[0].source,
        {name: np.concatenate([m.columns[name] for m in parts]) for name in shared},
    )


def canonical_smiles(names: Iterable[str]) -> tuple[str, ...]:
    """RDKit's canonical SMILES of each name, or the name itself where it is no SMILES.

    Raises ImportError without RDKit.
    """
    chem = import_rdkit()
    from rdkit import rdBase

    names = tuple(names)
    canonical = {}
    with rdBase.BlockLogs():  # an identifier is no SMILES, and no news either
        for name in dict.fromkeys(names):
            parsed = chem.MolFromSmiles(name)
            canonical[name] = name if parsed is None else chem.MolToSmiles(parsed)
    return tuple(canonical[name] for name in names)


def split(
    molecules: Molecules, validation: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (train, validation), each ascending, with whole groups on either side.

    `groups` holds one label per row; by default the canonical SMILES of the name, so that the
    conformers of a compound and its repeats stay together. Groups go to validation in the order of
    a hash of (seed, label) until their rows reach the fraction `validation`: the same on every
    machine, whatever the order of rows, and adding molecules moves few others across.

    Raises ValueError unless both sides get a row.
    """
    labels = canonical_smiles(molecules.names) if groups is None else groups
    if len(labels) != len(molecules):
        raise ValueError(f"{len(labels)} groups for {len(molecules)} molecules: give one each")
    return split_groups(labels, validation, seed, "molecules")


def split_groups(groups: Sequence[Hashable], validation: float, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """`split` by one label per row; `what` the rows are, for errors."""
    if not 0 < validation < 1:
        raise ValueError(f"validation={validation}: give a fraction between 0 and 1")
    labels = [str(group) for group in groups]
    sizes = collections.Counter(labels)
    wanted, taken, held_out = max(1, round(validation * len(labels))), 0, set()
    for label in sorted(sizes, key=lambda g: hashlib.sha256(f"{seed} {g}".encode()).digest()):
        if taken >= wanted:
            break
        held_out.add(label)
        taken += sizes[label]
    is_validation = np.array([label in held_out for label in labels], bool)
    if not 0 < taken < len(labels):
        raise ValueError(
            f"{len(labels)} {what} in {len(sizes)} groups leave none to train on at "
            f"validation={validation}: add {what} or lower the fraction"
        )
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
