"""What frames themselves say of their units: bond lengths, how stiffly bonds pull back, and the work forces do.

Each measurement compares the numbers of a file with nature, so that it reads 1 in angstrom, eV and eV/angstrom:

- neighbours stand about a sum of covalent radii apart (Cordero et al., Dalton Trans. 2008, 2832);
- a hydrogen hangs on one bond, and its force along that bond falls with the bond's length at a rate that hardly
  depends on the molecule or the level of theory: 5 mdyn/angstrom for C-H, 1 mdyn/angstrom = 6.24 eV/angstrom^2. This
  needs no energies and tells forces from gradients;
- between near frames of one molecule energies change by minus the work of the mean force (the trapezoidal rule).

Where the frames do not allow a measurement it says why, instead of a number.
"""

from typing import NamedTuple

import numpy as np

from equiscale.data.force_frames import ForceFrames, evenly
from equiscale.data.readers import import_ase
from equiscale.data.superposition import turns

# Stretching force constants in eV/angstrom^2 of hydrogen on B, C, N, O, Si, P, S (spectroscopy, rounded).
STIFFNESS = {5: 22.0, 6: 31.0, 7: 41.0, 8: 48.0, 14: 17.0, 15: 20.0, 16: 25.0}
NOBLE = (2, 10, 18, 36, 54, 86)  # neighbours of these are no bonds
FRAMES = 200  # looked at, evenly over the set, where each counts alone
GROUPS = 40  # molecules whose frames are compared with each other, evenly over the set
NEAREST = 400  # frames of one molecule among which near ones are sought
PAIRS = 400  # of near frames, in all
SHORTEST = 0.002  # angstrom: nearer frames differ by rounding and unfinished self-consistency


class Measured(NamedTuple):
    """A number and what it was measured on, or None and why it could not be."""

    value: float | None
    basis: str


class Bonds(NamedTuple):
    """Each atom with its nearest neighbour, over frames: distances [m], radii's sums [m], elements, force along."""

    distance: np.ndarray
    radii: np.ndarray
    element: np.ndarray
    neighbour: np.ndarray
    pull: np.ndarray  # the atom's force along the way from the neighbour to it


class Pairs(NamedTuple):
    """Pairs of near frames of one molecule, the second turned onto the first, each [m].

    The length of the path in angstrom, the energy gained on it, the work of the mean force, the size of the change of
    the forces, and how many atoms move.
    """

    path: np.ndarray
    gain: np.ndarray
    work: np.ndarray
    change: np.ndarray
    n_atoms: np.ndarray


def bonds(frames: ForceFrames) -> Bonds:
    """Nearest neighbours by distance over the sum of covalent radii. Raises ImportError without ASE."""
    ase = import_ase()
    found = [[np.zeros(0)] for _ in Bonds._fields]
    for row in evenly(len(frames), FRAMES):
        species = frames.species[row][frames.species[row] > 0]
        n = len(species)
        if n < 2:
            continue
        xyz, forces = frames.positions[row, :n].astype(float), frames.forces[row, :n]
        if frames.pbc is not None and frames.pbc[row].any():
            apart, distance = ase.geometry.get_distances(xyz, cell=frames.cell[row], pbc=frames.pbc[row])
            apart = -apart
        else:
            apart = xyz[:, None] - xyz
            distance = np.linalg.norm(apart, axis=-1)
        radii = ase.data.covalent_radii[species]
        radii = radii[:, None] + radii
        nearest = np.argmin(distance / radii + np.diag(np.full(n, np.inf)), axis=1)
        at = np.arange(n), nearest
        pull = np.sum(forces * apart[at], axis=-1) / np.maximum(distance[at], 1e-12)
        values = distance[at], radii[at], species, species[nearest], pull
        for one, array in zip(found, values, strict=True):
            one.append(array)
    return Bonds(*(np.concatenate(one) for one in found))


def bond_length(near: Bonds) -> Measured:
    """Median over atoms of the distance to the nearest neighbour, in sums of covalent radii."""
    counted = ~np.isin(near.element, NOBLE) & ~np.isin(near.neighbour, NOBLE)
    if counted.sum() < 2:
        return Measured(None, "no two atoms in one frame that bond")
    ratio = (near.distance / near.radii)[counted]
    return Measured(float(np.median(ratio)), f"{counted.sum():,} nearest neighbours")


def stiffness(near: Bonds, angstrom: float) -> Measured:
    """How fast forces along bonds of hydrogen fall with their length, over what is known, in 1 eV/angstrom^2.

    Positive where forces pull a long bond back, as forces do and gradients do not. `angstrom` is the unit of length.
    Lengths within 0.12 angstrom of their median count: beyond, bonds are far from springs.
    """
    stretch, pull = [], []
    for element, constant in STIFFNESS.items():
        of = (near.element == 1) & (near.neighbour == element)
        if not of.any():
            continue
        length = near.distance[of] * angstrom
        close = np.abs(length - np.median(length)) < 0.12
        stretch.append(constant * (length[close] - length[close].mean()))
        pull.append(near.pull[of][close] - near.pull[of][close].mean())
    n = sum(map(len, stretch))
    if n < 20:
        return Measured(None, f"{n} bonds of hydrogen, fewer than 20")
    x, f = np.concatenate(stretch), np.concatenate(pull)
    correlation = _cosine(x, f)
    if abs(correlation) < 0.5:
        return Measured(None, f"{n:,} bonds of hydrogen that hardly stretch (correlation {correlation:.2f})")
    return Measured(float(-(x @ f) / (x @ x)), f"{n:,} bonds of hydrogen, correlation {correlation:.2f}")


def pairs(frames: ForceFrames, angstrom: float) -> Pairs:
    """The nearest pairs of frames of up to 40 molecules, as many of each. Raises ImportError without ASE."""
    by_molecule: dict[tuple, list[int]] = {}
    for row, group in enumerate(frames.groups):
        cell = b"" if frames.cell is None else frames.cell[row].tobytes()
        by_molecule.setdefault((group, frames.species[row].tobytes(), cell), []).append(row)
    several = [np.array(rows) for rows in by_molecule.values() if len(rows) > 1]
    chosen = several[:: -(-len(several) // GROUPS)] if several else []
    found = [_near(frames, rows, angstrom, max(PAIRS // len(chosen), 5)) for rows in chosen]
    if not found:
        return Pairs(*np.zeros((5, 0)))
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _near(frames: ForceFrames, rows: np.ndarray, angstrom: float, most: int) -> Pairs:
    """The nearest pairs among frames of one molecule: neighbours in the file, and any two if nothing is periodic."""
    n = np.count_nonzero(frames.species[rows[0]])
    following = evenly(len(rows) - 1, NEAREST)
    i, j = rows[following], rows[following + 1]
    periodic = frames.pbc is not None and frames.pbc[rows[0]].any()
    if not periodic:
        some = rows[evenly(len(rows), min(NEAREST, int(np.sqrt(4e6 / n))))]  # the memory of all their pairs
        a, b = np.triu_indices(len(some), 1)
        i, j = np.concatenate([i, some[a]]), np.concatenate([j, some[b]])
    first, second = frames.positions[i, :n].astype(float), frames.positions[j, :n].astype(float)
    forces, others = frames.forces[i, :n].astype(float), frames.forces[j, :n].astype(float)
    if periodic:
        moved, _ = import_ase().geometry.find_mic((second - first).reshape(-1, 3), frames.cell[i[0]], frames.pbc[i[0]])
        move = moved.reshape(first.shape)
    else:
        first, second = first - first.mean(1, keepdims=True), second - second.mean(1, keepdims=True)
        turn = turns(first, second)
        move, others = second @ turn - first, others @ turn
    path = np.sqrt(np.sum(move**2, axis=(1, 2))) * angstrom
    counted = np.flatnonzero(path > SHORTEST * np.sqrt(n))
    near = counted[np.argsort(path[counted])[:most]]
    work = np.sum((forces + others) * move, axis=(1, 2)) / 2 * angstrom
    change = np.sqrt(np.sum((others - forces) ** 2, axis=(1, 2)))
    return Pairs(
        path[near], (frames.energies[j] - frames.energies[i])[near], work[near], change[near], np.full(len(near), n)
    )


def energy_per_work(near: Pairs) -> Measured:
    """Energy lost over work done: 1 where both are in one unit, negative where forces are gradients.

    Each pair over its squared path, which is what the trapezoidal rule errs by. The median of the ratios, weighted by
    their work up to its median: one wild step of a relaxation may do most of it.
    """
    lost, work = -near.gain / near.path**2, near.work / near.path**2
    if len(lost) < 10:
        return Measured(None, f"{len(lost)} pairs of near frames of one molecule, fewer than 10")
    correlation = _cosine(lost, work)
    if abs(correlation) < 0.6:
        return Measured(None, f"{len(lost)} pairs of frames too far apart (correlation {correlation:.2f})")
    ratio = lost / np.where(work == 0, np.inf, work)
    order = np.argsort(ratio)
    weight = np.cumsum(np.minimum(np.abs(work), np.median(np.abs(work)))[order])
    middle = ratio[order][np.searchsorted(weight, weight[-1] / 2)]
    return Measured(float(middle), f"{len(lost)} pairs of near frames, correlation {correlation:.2f}")


def rigidity(near: Pairs) -> Measured:
    """Median change of the forces over the path between near frames: 2 eV/angstrom^2 in soft metals, 40 in organics."""
    if len(near.path) < 10 or not near.change.any():
        return Measured(None, f"{len(near.path)} pairs of near frames of one molecule, fewer than 10")
    return Measured(float(np.median(near.change / near.path)), f"{len(near.path)} pairs of near frames")


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0
