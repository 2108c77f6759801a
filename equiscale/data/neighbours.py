"""Who neighbours whom: the k nearest atoms within a cutoff, periodic images included.

On the host, once a structure. The k-th and the next neighbour can be almost equally far, and rounding may swap them
when the structure is turned; a graph that is built once and kept, as `build` makes it, is the same for all copies.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from equiscale.data.graphs import Graph

OVERLAP = 0.01  # angstrom; atoms closer than this are a mistake in the data, and have no direction between them


class Edges(NamedTuple):
    """What became of the edges of a set of structures; adds up by `join`.

    >>> print(Edges(atoms=10, within=90, kept=60, crowded=5, isolated=0))
    kept 60 of 90 edges: 5 of 10 atoms have more neighbours than slots, 0 have none
    """

    atoms: int
    within: int  # directed edges within the cutoff
    kept: int
    crowded: int  # atoms with more neighbours than slots
    isolated: int  # atoms without any

    @property
    def cut(self) -> int:
        """Edges left out because an atom has k nearer ones."""
        return self.within - self.kept

    def join(self, other: "Edges") -> "Edges":
        return Edges(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return (
            f"kept {self.kept:,} of {self.within:,} edges: {self.crowded:,} of {self.atoms:,} atoms have more "
            f"neighbours than slots, {self.isolated:,} have none"
        )


class Table(NamedTuple):
    """The neighbours of each atom of one structure, as in `Graph`, and how many are within the cutoff."""

    neighbours: Int[np.ndarray, "atoms k"]
    mask: Bool[np.ndarray, "atoms k"]
    shifts: Int[np.ndarray, "atoms k 3"]
    within: Int[np.ndarray, " atoms"]


def build(
    positions: Float[np.ndarray, "n atoms 3"],
    species: Int[np.ndarray, "n atoms"],
    *,
    k: int,
    cutoff: float,
    cell: Float[np.ndarray, "n 3 3"] | None = None,
    periodic: Bool[np.ndarray, "n 3"] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Graph, Edges]:
    """A batch of graphs from padded arrays (species 0 where there is no atom), and what was kept of their edges.

    `cell` holds lattice vectors in rows, `periodic` which of them the structure repeats along (all, if there is a
    cell). Positions keep their precision; distances are compared in float64. `names` are for errors.

    Raises ValueError naming structure and atom: positions that are not finite, atoms on top of each other, lattice
    vectors that span no volume, shapes that disagree, a `k` or `cutoff` that is not positive. Raises ImportError
    without vesin.
    """
    positions, species = np.asarray(positions), np.asarray(species)
    n, atoms = species.shape if species.ndim == 2 else (0, 0)
    if not n or positions.shape != (n, atoms, 3):
        raise ValueError(
            f"positions {positions.shape} and species {species.shape} disagree: give [n, atoms, 3] and [n, atoms]"
        )
    cells = np.zeros((n, 3, 3), positions.dtype) if cell is None else np.asarray(cell, positions.dtype)
    repeats = np.full((n, 3), cell is not None) if periodic is None else np.asarray(periodic, bool)
    if cells.shape != (n, 3, 3) or repeats.shape != (n, 3):
        raise ValueError(f"{n} structures need cell [{n}, 3, 3] and periodic [{n}, 3]: {cells.shape}, {repeats.shape}")
    neighbours = np.broadcast_to(np.arange(atoms, dtype=np.int32)[:, None], (n, atoms, k)).copy()
    mask = np.zeros((n, atoms, k), bool)
    shifts = np.zeros((n, atoms, k, 3), np.int8)
    edges = Edges(0, 0, 0, 0, 0)
    for row in range(n):
        real = np.flatnonzero(species[row])
        name = str(row) if names is None else f"{row} ({names[row]})"
        found = nearest(positions[row, real], k, cutoff, cell=cells[row], periodic=repeats[row], name=name)
        neighbours[row, real] = np.where(found.mask, real[found.neighbours], real[:, None])
        mask[row, real], shifts[row, real] = found.mask, found.shifts
        edges = edges.join(
            Edges(
                len(real),
                int(found.within.sum()),
                int(found.mask.sum()),
                int((found.within > k).sum()),
                int((found.within == 0).sum()),
            )
        )
    return Graph(positions, species.astype(np.int32), neighbours, mask, shifts, cells), edges


def nearest(
    positions: Float[np.ndarray, "atoms 3"],
    k: int,
    cutoff: float,
    *,
    cell: Float[np.ndarray, "3 3"],
    periodic: Bool[np.ndarray, " 3"],
    name: str = "",
) -> Table:
    """The k nearest neighbours of each atom at distances up to `cutoff`; see `build`.

    Equally far ones come in the order of their index, images of one atom in the order of their shifts.
    """
    if k < 1 or not cutoff > 0:
        raise ValueError(f"k={k} slots and cutoff={cutoff} angstrom: both must be positive")
    x, lattice = np.asarray(positions, np.float64), np.asarray(cell, np.float64)
    _check_finite(x, lattice, name)
    i, j, shift = _pairs(x, cutoff, lattice, periodic, name)
    distance = np.linalg.norm(x[j] + shift @ lattice - x[i], axis=-1)
    if len(distance) and distance.min() < OVERLAP:
        first = int(np.argmin(distance))
        raise ValueError(
            f"structure {name}: atoms {i[first]} and {j[first]} are {distance[first]:.2g} angstrom apart, on top "
            "of each other (periodic images included); mend or leave out this structure"
        )
    near = distance <= cutoff
    i, j, shift, distance = i[near], j[near], shift[near], distance[near]
    within = np.bincount(i, minlength=len(x))
    order = np.lexsort((*shift.T[::-1], j, distance, i))
    slot = np.arange(len(order)) - np.repeat(np.cumsum(within) - within, within)
    order, slot = order[slot < k], slot[slot < k]
    neighbours = np.broadcast_to(np.arange(len(x))[:, None], (len(x), k)).copy()
    mask, shifts = np.zeros((len(x), k), bool), np.zeros((len(x), k, 3), np.int32)
    neighbours[i[order], slot], mask[i[order], slot], shifts[i[order], slot] = j[order], True, shift[order]
    if np.abs(shifts).max(initial=0) > np.iinfo(np.int8).max:
        raise ValueError(f"structure {name}: neighbours {np.abs(shifts).max()} cells away; is the cell in angstrom?")
    return Table(neighbours, mask, shifts, within)


def _pairs(x, cutoff, lattice, periodic, name) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directed pairs (i, j) and the shift of j, out to a little more than the cutoff."""
    try:
        from vesin import NeighborList
    except ImportError as error:
        raise ImportError("this needs vesin: pip install 'equiscale[forces]'") from error
    if np.linalg.matrix_rank(lattice[periodic]) < np.count_nonzero(periodic):
        raise ValueError(
            f"structure {name}: its periodic lattice vectors {lattice[periodic].tolist()} span no volume; "
            "give three in rows, or periodic=False"
        )
    # Where the structure does not repeat its lattice vector is not used, and need not be there.
    finder = NeighborList(cutoff=cutoff * (1 + 1e-6), full_list=True)
    i, j, shift = finder.compute(points=x, box=lattice, periodic=periodic, quantities="ijS")
    return i.astype(np.int64), j.astype(np.int64), shift


def _check_finite(x, lattice, name) -> None:
    if not np.isfinite(x).all():
        atom = int(np.argmin(np.isfinite(x).all(axis=1)))
        raise ValueError(
            f"structure {name}, atom {atom}: position {x[atom].tolist()} is not finite; mend or leave it out"
        )
    if not np.isfinite(lattice).all():
        raise ValueError(f"structure {name}: its cell {lattice.tolist()} is not finite; mend or leave it out")
