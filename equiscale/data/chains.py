"""Protein chains in memory: padded arrays of C-alpha positions in nm and residue numbers, checked where they come in.

Readers make `ChainRecord`s, with a `BadMolecule` in the place of each chain that cannot be read; `from_records` stops
at the first bad one, `from_records_skipping` leaves bad ones out and says how many and why.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from equiscale.data.molecules import BadMolecule, Skipped, split_groups, tally

BREAK = 0.4  # nm between neighbouring C-alpha, above which the published systems speak of a chain break
USUAL = (0.30, 0.45)  # nm, where the median distance of neighbours lies in any protein; 0.38 in all but odd ones


class ChainRecord(NamedTuple):
    """One chain as a reader found it.

    `positions` [n_residues, 3] in nm, `numbers` [n_residues] increasing residue numbers in which missing residues
    count, `sequence` n_residues letters or none. `length` in residues is that of the molecule in the experiment, with
    those not seen; `resolution` in angstrom and `method` are those of the experiment; all None where not known.
    `cluster` labels its like, where the file tells. `changes` counts what the reader left out or replaced.
    """

    name: str
    positions: np.ndarray
    numbers: np.ndarray
    sequence: str = ""
    length: int | None = None
    resolution: float | None = None
    method: str | None = None
    cluster: str | None = None
    changes: Mapping[str, int] = {}


class Limits(NamedTuple):
    """Which chains to keep; None is no limit. By default those of the published sets, whose length limits are strict.

    `above` and `below` in residues of the whole molecule, `max_resolution` in angstrom, `methods` words of which an
    experiment's name holds one. What a file does not tell passes, but for the length, which then is the span of the
    residue numbers.
    """

    above: int | None = 50
    below: int | None = 256
    max_resolution: float | None = 5.0
    methods: tuple[str, ...] | None = ("diffraction", "crystallography", "microscopy")


class BadChain(BadMolecule):
    """A chain that cannot be used; `reason` is what a report counts it under."""


@dataclasses.dataclass(frozen=True, eq=False)
class Chains:
    """n chains of C-alpha atoms padded to one size.

    `positions` float32 [n, max_residues, 3] in nm, each chain's mean at the origin, 0 in padding; `index` int32
    [n, max_residues] residue numbers from 1, in which missing residues count, 0 in padding; `breaks` bool
    [n, max_residues], True where the next C-alpha is more than 0.4 nm away, False for the last; `names` and `clusters`
    n each, chains of one cluster being alike in sequence; `sequences` one-letter codes of n_residues each, or empty;
    `source` a line on where they come from.

    Raises ValueError when shapes or dtypes disagree. The values themselves are checked by `from_records`.
    """

    positions: np.ndarray
    index: np.ndarray
    breaks: np.ndarray
    names: tuple[str, ...]
    clusters: tuple[str, ...]
    sequences: tuple[str, ...]
    source: str

    def __post_init__(self):
        shape = self.index.shape
        if len(shape) != 2 or self.positions.shape != (*shape, 3) or self.breaks.shape != shape:
            raise ValueError(
                f"positions {self.positions.shape}, index {shape} and breaks {self.breaks.shape} disagree: "
                "give [n, max_residues, 3] and [n, max_residues] twice"
            )
        dtypes = self.positions.dtype, self.index.dtype, self.breaks.dtype
        if dtypes != (np.float32, np.int32, np.bool_):
            raise ValueError(
                f"positions, index and breaks are {', '.join(map(str, dtypes))}: give float32, int32 and bool"
            )
        for what in ("names", "clusters", "sequences"):
            if len(getattr(self, what)) != len(self.index):
                raise ValueError(f"{len(getattr(self, what))} {what} for {len(self.index)} chains: give one each")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Chains({len(self):,} of up to {self.index.shape[1]} residues, {self.source})"

    @property
    def n_residues(self) -> np.ndarray:
        """Residues of each chain that are there, int [n]."""
        return np.count_nonzero(self.index, axis=1)

    def __getitem__(self, row: int) -> np.ndarray:
        """Positions [n_residues, 3] of one chain, without padding."""
        return self.positions[row, : np.count_nonzero(self.index[row])]

    def subset(self, indices) -> "Chains":
        """The chains of an index array or a boolean mask [n], in that order, padded as before.

        Raises IndexError for an index out of range or a mask of another length.
        """
        rows = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else int)]
        texts = [tuple(column[i] for i in rows) for column in (self.names, self.clusters, self.sequences)]
        return Chains(self.positions[rows], self.index[rows], self.breaks[rows], *texts, self.source)


def split_chains(chains: Chains, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (train, validation), each ascending, with whole clusters on either side, as `molecules.split`."""
    return split_groups(chains.clusters, validation, seed, "chains")


def breaks_of(positions: np.ndarray) -> np.ndarray:
    """Where the next C-alpha is more than 0.4 nm away, bool [n_residues], of positions [n_residues, 3] in nm."""
    distances = np.linalg.norm(np.diff(positions.astype(np.float64), axis=0), axis=1)
    return np.append(distances > BREAK, False)


def check_chain(record: ChainRecord, limits: Limits) -> ChainRecord:
    """The record with positions float32, centred, and numbers int32 from 1. Raises BadChain for one that is not good.

    >>> line = np.arange(60)[:, None] * [0.38, 0, 0]
    >>> check_chain(ChainRecord("a line", line, np.arange(7, 67)), Limits()).numbers[:2]
    array([1, 2], dtype=int32)
    """
    name = record.name
    positions, numbers = np.asarray(record.positions, np.float64), np.asarray(record.numbers)
    if not len(numbers):
        raise BadChain("without a standard residue", f"chain {name} has no C-alpha of a standard residue")
    if positions.shape != (len(numbers), 3) or len(record.sequence) not in (0, len(numbers)):
        raise BadChain(
            "with lengths that disagree",
            f"chain {name} has positions {positions.shape}, {len(numbers)} residue numbers and "
            f"{len(record.sequence)} letters: give [n_residues, 3], n_residues and as many or no letters",
        )
    if not np.isfinite(positions).all():
        worst = int(np.argmin(np.isfinite(positions).all(axis=1)))
        raise BadChain(
            "with a coordinate that is not finite",
            f"chain {name}, residue {numbers[worst]}: coordinates {positions[worst].tolist()}; leave out this chain",
        )
    steps = np.diff(numbers)
    if (steps < 1).any():
        worst = int(np.argmin(steps))
        raise BadChain(
            "with residue numbers that do not increase",
            f"chain {name}: residue {numbers[worst + 1]} follows residue {numbers[worst]}; number them in order",
        )
    length = record.length or int(numbers[-1] - numbers[0] + 1)
    objection = _objection(record, length, limits)
    if objection:
        told = f"{length} residues, {record.resolution or 'unknown'} angstrom, {record.method or 'unknown method'}"
        raise BadChain(objection, f"chain {name}, {objection} ({told}): widen the limits to keep it")
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)[steps == 1]
    if len(apart) and not USUAL[0] < np.median(apart) < USUAL[1]:
        raise BadChain(
            "with neighbours at distances unlike a protein's",
            f"chain {name}: half of its neighbouring C-alpha are within {np.median(apart):.3g} nm, in proteins 0.38; "
            "look at the unit, which in files is angstrom",
        )
    positions -= positions.mean(axis=0)
    numbers = numbers - numbers[0] + 1
    return record._replace(positions=positions.astype(np.float32), numbers=numbers.astype(np.int32))


def _objection(record: ChainRecord, length: int, limits: Limits) -> str | None:
    """Which limit a chain is beyond, as a report counts it, or None."""
    if limits.above is not None and length <= limits.above:
        return f"of {limits.above} residues or fewer"
    if limits.below is not None and length >= limits.below:
        return f"of {limits.below} residues or more"
    resolution = record.resolution
    if None not in (limits.max_resolution, resolution) and resolution > limits.max_resolution:
        return f"at a resolution beyond {limits.max_resolution:g} angstrom"
    if limits.methods is None or record.method is None:
        return None
    known = any(word.lower() in record.method.lower() for word in limits.methods)
    return None if known else f"by {record.method.lower()}"


def checked(
    records: Iterable[ChainRecord | BadMolecule],
    outcomes: list[str | None],
    limits: Limits,
    tell: Callable[[BadMolecule], None] | None = None,
) -> Iterator[ChainRecord]:
    """The good ones, checked; one outcome each to `outcomes`, None or why not, and `tell` is called with bad ones."""
    for record in records:
        try:
            if isinstance(record, BadMolecule):
                raise record
            good = check_chain(record, limits)
        except BadMolecule as error:
            outcomes.append(error.reason)
            if tell is not None:
                tell(error)
            continue
        outcomes.append(None)
        yield good


def from_records(records: Iterable[ChainRecord], source: str, limits: Limits | None = None) -> Chains:
    """Chains padded to the longest, each of them good; a chain without a cluster is one by itself.

    Raises BadChain, a ValueError, naming chain, residue and value; ValueError for no record at all. `limits` are by
    default the published ones.
    """
    good = [check_chain(record, limits or Limits()) for record in records]
    if not good:
        raise ValueError(f"no chain in {source}: give at least one record")
    return _padded(good, source)


def from_records_skipping(
    records: Iterable[ChainRecord | BadMolecule], source: str, limits: Limits | None = None
) -> tuple[Chains, Skipped]:
    """As `from_records`, with bad ones left out and counted by reason. Raises ValueError when none is left."""
    outcomes: list[str | None] = []
    good = list(checked(records, outcomes, limits or Limits()))
    report = tally(outcomes)
    if not good:
        raise ValueError(f"no chain left of {source}: {report}")
    return _padded(good, source), report


def _padded(good: list[ChainRecord], source: str) -> Chains:
    width = max(len(record.numbers) for record in good)
    positions = np.zeros((len(good), width, 3), np.float32)
    index = np.zeros((len(good), width), np.int32)
    breaks = np.zeros((len(good), width), bool)
    for row, record in enumerate(good):
        n = len(record.numbers)
        positions[row, :n], index[row, :n] = record.positions, record.numbers
        breaks[row, :n] = breaks_of(record.positions)
    names = tuple(record.name for record in good)
    clusters = tuple(record.name if record.cluster is None else record.cluster for record in good)
    return Chains(positions, index, breaks, names, clusters, tuple(record.sequence for record in good), source)


def unbroken_chains(
    positions: np.ndarray,
    names: Sequence[str],
    source: str,
    clusters: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
) -> Chains:
    """Chains of one length [n, n_residues, 3] in nm, centred here, residues numbered from 1 and no break marked.

    As made or cut: clusters are by default the names, sequences empty. Raises what `Chains` raises.
    """
    positions = np.asarray(positions, np.float64)
    shape = positions.shape[:2]
    return Chains(
        (positions - positions.mean(axis=1, keepdims=True)).astype(np.float32),
        np.broadcast_to(np.arange(1, shape[1] + 1, dtype=np.int32), shape),
        np.zeros(shape, bool),
        tuple(names),
        tuple(names if clusters is None else clusters),
        ("",) * shape[0] if sequences is None else tuple(sequences),
        source,
    )
