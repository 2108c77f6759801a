"""What a chain of C-alpha atoms looks like: distances, angles, secondary structure, handedness, size, clashes.

All functions of one chain take `positions` [n_residues, 3] in nm and, where neighbours matter, `joined` bool
[n_residues - 1], False between residues that do not follow each other; by default all do. Statistics of real chains,
to hold generated ones against, are in `REAL`.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.distance import pdist

from equiscale.data.chains import Chains

CLASH = 0.001, 0.2  # nm; nearer than the first, two residues are one

# Of 2,418 chains of 40 to 256 residues of the PDB, by `statistics`.
REAL = {
    "distance_mean": 0.3802,
    "distance_median": 0.3807,
    "distance_sd": 0.0069,
    "distance_min": 0.264,
    "distance_max": 0.425,
    "clashes": 0.0,
    "gyration_ratio": 1.034,
    "helix": 0.249,
    "strand": 0.160,
    "right_handed": 0.347,
    "left_handed": 0.024,
}

# P-SEA, Labesse et al., CABIOS 13, 291 (1997): distances in nm of residues 2, 3 and 4 apart, degrees, half widths.
HELIX = {"d3": (0.53, 0.05), "d4": (0.64, 0.06), "angle": (89, 12), "dihedral": (50, 20), "run": 5}
STRAND = {"d2": (0.67, 0.06), "d3": (0.99, 0.09), "d4": (1.24, 0.11), "angle": (124, 14), "run": 4}
STRAND_DIHEDRAL = (-180, -125), (145, 180)  # degrees


def _apart(positions: np.ndarray, k: int, joined: np.ndarray | None) -> np.ndarray:
    """Distances of residues k apart [n_residues - k], NaN across a gap."""
    found = np.linalg.norm(positions[k:] - positions[:-k], axis=1)
    return np.where(_unbroken(len(positions), k, joined), found, np.nan)


def _unbroken(n: int, k: int, joined: np.ndarray | None) -> np.ndarray:
    """Which of the n - k stretches of k + 1 residues have no gap."""
    if joined is None:
        return np.ones(max(n - k, 0), bool)
    gaps = np.concatenate([[0], np.cumsum(~joined)])
    return gaps[k:] == gaps[: n - k]


def neighbour_distances(
    positions: Float[np.ndarray, "n 3"], joined: Bool[np.ndarray, " n-1"] | None = None
) -> Float[np.ndarray, " n-1"]:
    """Between residues i and i + 1, in nm; NaN across a gap."""
    return _apart(np.asarray(positions, np.float64), 1, joined)


def pseudo_angles(
    positions: Float[np.ndarray, "n 3"], joined: Bool[np.ndarray, " n-1"] | None = None
) -> Float[np.ndarray, " n-2"]:
    """At residue i + 1 between i and i + 2, degrees in [0, 180]; NaN across a gap."""
    bonds = np.diff(np.asarray(positions, np.float64), axis=0)
    back, on = -bonds[:-1], bonds[1:]
    found = np.degrees(np.arctan2(np.linalg.norm(np.cross(back, on), axis=1), np.sum(back * on, axis=1)))
    return np.where(_unbroken(len(positions), 2, joined), found, np.nan)


def pseudo_dihedrals(
    positions: Float[np.ndarray, "n 3"], joined: Bool[np.ndarray, " n-1"] | None = None
) -> Float[np.ndarray, " n-3"]:
    """Of residues i to i + 3, degrees in [-180, 180], positive in right-handed helices; NaN across a gap."""
    bonds = np.diff(np.asarray(positions, np.float64), axis=0)
    first, middle, last = bonds[:-2], bonds[1:-1], bonds[2:]
    a, b = np.cross(first, middle), np.cross(middle, last)
    found = np.degrees(np.arctan2(np.linalg.norm(middle, axis=1) * np.sum(first * b, axis=1), np.sum(a * b, axis=1)))
    return np.where(_unbroken(len(positions), 3, joined), found, np.nan)


def radius_of_gyration(positions: Float[np.ndarray, "n 3"]) -> float:
    """Root mean square distance from the mean, in nm; of folded chains 0.22 n_residues^0.38, or little more."""
    centred = np.asarray(positions, np.float64) - np.mean(positions, axis=0, dtype=np.float64)
    return float(np.sqrt(np.mean(np.sum(centred**2, axis=1))))


def clashes(positions: Float[np.ndarray, "n 3"]) -> int:
    """Pairs of residues between 0.001 and 0.2 nm apart; none in real chains."""
    distances = pdist(np.asarray(positions, np.float64))
    return int(np.count_nonzero((distances > CLASH[0]) & (distances < CLASH[1])))


def secondary_structure(
    positions: Float[np.ndarray, "n 3"], joined: Bool[np.ndarray, " n-1"] | None = None
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Which residues are in helices and which in strands, by the criteria of P-SEA on C-alpha alone.

    Residue i qualifies by the distances from i - 1 to i + 1, i + 2 and i + 3, or by the angle at i and the dihedral
    from i - 1 to i + 2; five in a row make a helix, four a strand. Not done is P-SEA's widening of elements by their
    ends, and of short strands beside others.
    """
    positions = np.asarray(positions, np.float64)
    n = len(positions)

    def at(values):  # of residues 1, 2 ...: the stretch that values[0] is of starts with residue 0
        return np.concatenate([[np.nan], values, np.full(max(n - 1 - len(values), 0), np.nan)])[:n]

    measured = {f"d{k}": at(_apart(positions, k, joined)) for k in (2, 3, 4)}
    measured["angle"] = at(pseudo_angles(positions, joined))
    dihedral = measured["dihedral"] = at(pseudo_dihedrals(positions, joined))

    def within(element, *names):
        return np.all([np.abs(measured[name] - element[name][0]) < element[name][1] for name in names], axis=0)

    in_strand = np.any([(dihedral >= low) & (dihedral <= high) for low, high in STRAND_DIHEDRAL], axis=0)
    helix = _in_runs(within(HELIX, "d3", "d4") | within(HELIX, "angle", "dihedral"), HELIX["run"])
    strand = _in_runs(within(STRAND, "d2", "d3", "d4") | (within(STRAND, "angle") & in_strand), STRAND["run"])
    return helix, strand & ~helix


def _in_runs(flags: np.ndarray, least: int) -> np.ndarray:
    """True where it is True in at least `least` places in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    found = np.zeros(len(flags), bool)
    for first, end in edges.reshape(-1, 2):
        found[first:end] = end - first >= least
    return found


def handedness(dihedrals: Float[np.ndarray, " k"]) -> tuple[float, float]:
    """Shares of dihedrals in [30, 70] degrees, which right-handed helices fill, and in the mirrored [-70, -30].

    In real chains 0.35 and 0.02; distances alone cannot tell the two.
    """
    dihedrals = dihedrals[np.isfinite(dihedrals)]
    if not len(dihedrals):
        return np.nan, np.nan
    return tuple(float(np.mean((sign * dihedrals >= 30) & (sign * dihedrals <= 70))) for sign in (1, -1))


def joined(chains: Chains, row: int) -> Bool[np.ndarray, " n-1"]:
    """Of one chain: where the next residue is the next number and no more than 0.4 nm away."""
    index = chains.index[row, : len(chains[row])]
    return (np.diff(index) == 1) & ~chains.breaks[row, : len(index) - 1]


def statistics(chains: Chains) -> dict[str, float]:
    """Of all chains, with the names of `REAL`.

    `distance_mean` and the like in nm, of neighbours with no missing residue between them, `clashes` per chain,
    `gyration_ratio` the median of radius of gyration over 0.22 n_residues^0.38 nm, `helix` and `strand` the shares of
    residues, `right_handed` and `left_handed` those of `handedness`. Raises ValueError for no chain.
    """
    if not len(chains):
        raise ValueError(f"no chain in {chains!r}: give at least one")
    distances, dihedrals, ratios, n_clashes, helix, strand = [], [], [], [], [], []
    for row in range(len(chains)):
        positions, unbroken = chains[row], joined(chains, row)
        follows = np.diff(chains.index[row, : len(positions)]) == 1  # long ones count: they are what is wrong
        distances.append(neighbour_distances(positions, follows))
        dihedrals.append(pseudo_dihedrals(positions, unbroken))
        ratios.append(radius_of_gyration(positions) / (0.22 * len(positions) ** 0.38))
        n_clashes.append(clashes(positions))
        in_helix, in_strand = secondary_structure(positions, unbroken)
        helix.append(in_helix)
        strand.append(in_strand)
    distances = np.concatenate(distances)
    right, left = handedness(np.concatenate(dihedrals))
    return {
        "distance_mean": float(np.nanmean(distances)),
        "distance_median": float(np.nanmedian(distances)),
        "distance_sd": float(np.nanstd(distances)),
        "distance_min": float(np.nanmin(distances)),
        "distance_max": float(np.nanmax(distances)),
        "clashes": float(np.mean(n_clashes)),
        "gyration_ratio": float(np.median(ratios)),
        "helix": float(np.mean(np.concatenate(helix))),
        "strand": float(np.mean(np.concatenate(strand))),
        "right_handed": right,
        "left_handed": left,
    }
