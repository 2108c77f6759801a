"""Synthetic chains of C-alpha atoms with the local statistics of proteins, so that nothing need be downloaded.

They are no proteins: helices, strands and loops follow each other as often and as long as in real chains, with their
bond angles and dihedrals, right-handed, no two residues in one place, folded to a protein's size. What holds real folds
together is missing: strands do not pair into sheets, there are no recurring folds and no sequences. Figures made of
them must say so, which `source` does.
"""

import numpy as np
from jaxtyping import Float, Int

from equiscale.data.chains import Chains, unbroken_chains

# Lengths in nm and residues, angles in degrees. Means and deviations of bonds, helices and loops are those of 2,418
# chains of the PDB; lengths of elements and the narrower strands are set so that `chain_geometry.statistics` comes near
# those of the same chains.
BOND = 0.3807, 0.0047  # neighbouring C-alpha of trans peptides: mean, standard deviation
HELIX_RUN, STRAND_RUN, LOOP_RUN = (6, 20), (5, 11), (2, 10)  # residues, from and below
HELIX_SHARE = 0.4  # of elements; the others are strands
HELIX = (49.6, 6.1), (91.6, 3.2)  # dihedral of four helix residues and the bond angle at the third: mean, deviation
STRAND = (-167.0, 12.0), (124.0, 7.0)
# Of the other dihedrals: shares of [-180, -150), [-150, -120) ..., and mean and deviation of the bond angle in each.
LOOP_DIHEDRALS = np.array([139, 144, 121, 48, 23, 27, 57, 120, 95, 60, 53, 73]) / 960
LOOP_ANGLES = np.array([117, 110, 107, 110, 110, 111, 110, 99, 102, 115, 117, 119])
LOOP_SPREADS = np.array([16, 15, 14, 14, 17, 20, 17, 14, 18, 17, 16, 18])
ANGLES = 80.0, 150.0  # all bond angles are kept within
GYRATION = 1.03, 0.05  # radius of gyration that chains are folded towards, over 0.22 n^0.38 nm: mean, deviation

NEAREST = 0.38  # nm, from residues three or more apart
WALKERS = 32  # copies of a chain that grow beside each other
EVERY = 3  # residues after which the best quarter of them takes the place of all
CHUNK = 128  # chains grown together, so that memory does not grow
ATTEMPTS = 50


def synthetic_chains(n: int, n_residues: int, seed: int = 0, first: int = 0) -> Chains:
    """Synthetic chains `first`, `first + 1` ... of a seed: each depends on (seed, its index, n_residues) alone.

    A chain grows residue by residue in 32 copies with dihedrals of their own; every three residues the quarter
    that does not overlap itself and is nearest to a protein's radius of gyration takes the place of all. 64 residues
    take 3 ms.

    Raises ValueError for n below 1, fewer than 4 residues or a negative seed or index.
    """
    if n < 1 or n_residues < 4 or min(seed, first) < 0:
        raise ValueError(
            f"n={n}, n_residues={n_residues}, seed={seed}, first={first}: give at least 1 chain of 4 residues, "
            "seed and first of at least 0"
        )
    indices = np.arange(first, first + n)
    parts = [_grown(indices[i : i + CHUNK], n_residues, seed) for i in range(0, n, CHUNK)]
    source = f"synthetic chains, not real proteins: {n:,} of {n_residues} residues, seed {seed}"
    return unbroken_chains(np.concatenate(parts), [f"synthetic {i}" for i in indices], source)


def _grown(indices: np.ndarray, n: int, seed: int) -> Float[np.ndarray, "m n 3"]:
    """One chain an index; what gets stuck starts again with other numbers."""
    found = np.zeros((3, len(indices), n), np.float32)
    left = np.arange(len(indices))
    for attempt in range(ATTEMPTS):
        drawn = [_drawn(np.random.default_rng([seed, int(i), n, attempt]), n) for i in indices[left]]
        found[:, left], good = _fold(*(np.stack(arrays) for arrays in zip(*drawn, strict=True)))
        left = left[~good]
        if not len(left):
            return np.moveaxis(found, 0, 2)
    raise RuntimeError(f"chain {indices[left[0]]} of seed {seed} overlaps itself in each of {ATTEMPTS} attempts")


def _elements(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """0 in loops, 1 in helices, 2 in strands: elements in turn with loops, begun anywhere in the first."""
    kinds = []
    skipped = rng.integers(HELIX_RUN[1])
    while len(kinds) < n + skipped:
        kind = 1 if rng.random() < HELIX_SHARE else 2
        kinds += [kind] * rng.integers(*(HELIX_RUN if kind == 1 else STRAND_RUN)) + [0] * rng.integers(*LOOP_RUN)
    return np.array(kinds[skipped : skipped + n])


def _drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    """Bond lengths [WALKERS, n], bond angles and dihedrals in radians [WALKERS, n], by the residue they place, and the
    radius of gyration to fold towards, over the usual one."""
    kinds = _elements(rng, n)
    of_four = np.array([kinds[max(i - 3, 0)] if len(set(kinds[max(i - 3, 0) : i + 1])) == 1 else 0 for i in range(n)])
    normal, other = rng.normal(size=(2, WALKERS, n))
    cell = rng.choice(12, (WALKERS, n), p=LOOP_DIHEDRALS)
    dihedrals = -180 + 30 * (cell + rng.random((WALKERS, n)))
    angles = LOOP_ANGLES[cell] + LOOP_SPREADS[cell] * other
    for kind, (dihedral, angle) in ((1, HELIX), (2, STRAND)):
        dihedrals = np.where(of_four == kind, dihedral[0] + dihedral[1] * normal, dihedrals)
        angles = np.where(of_four == kind, angle[0] + angle[1] * other, angles)
    bonds = BOND[0] + BOND[1] * np.clip(rng.normal(size=(WALKERS, n)), -3, 3)
    internal = bonds, np.radians(np.clip(angles, *ANGLES)), np.radians(dihedrals)
    goal = GYRATION[0] + GYRATION[1] * np.clip(rng.normal(), -2, 2)
    return *(array.astype(np.float32) for array in internal), goal


def _fold(bonds, angles, dihedrals, goal) -> tuple[Float[np.ndarray, "3 m n"], np.ndarray]:
    """The best copy of each chain [3, m, n], and whether it does not overlap itself [m]."""
    m, walkers, n = bonds.shape
    chains = np.zeros((3, m, walkers, n), np.float32)  # coordinates first: sums over them are then fast
    overlaps = np.zeros((m, walkers), bool)
    chains[0, :, :, 1] = bonds[:, :, 1]
    chains[0, :, :, 2] = bonds[:, :, 1] - bonds[:, :, 2] * np.cos(angles[:, :, 2])
    chains[1, :, :, 2] = bonds[:, :, 2] * np.sin(angles[:, :, 2])
    total, square = chains.sum(axis=3), np.sum(chains**2, axis=(0, 3))
    for i in range(3, n):
        new = _place(chains[..., i - 3 : i], bonds[:, :, i], angles[:, :, i], dihedrals[:, :, i])
        overlaps |= (np.sum((chains[..., : i - 2] - new[..., None]) ** 2, axis=0) < NEAREST**2).any(axis=2)
        chains[..., i] = new
        total, square = total + new, square + np.sum(new**2, axis=0)
        if i % EVERY == 0 or i == n - 1:
            radius2 = square / (i + 1) - np.sum((total / (i + 1)) ** 2, axis=0)
            off = np.abs(np.log(radius2) / 2 - np.log(goal[:, None] * 0.22 * (i + 1) ** 0.38))
            order = np.argsort(np.where(overlaps, np.inf, off), axis=1, kind="stable")
            kept = order[:, np.arange(walkers) % (walkers // 4)]
            chains[..., : i + 1] = np.take_along_axis(chains[..., : i + 1], kept[None, :, :, None], axis=2)
            total = np.take_along_axis(total, kept[None], axis=2)
            square, overlaps = (np.take_along_axis(array, kept, axis=1) for array in (square, overlaps))
    return chains[:, :, 0], ~overlaps[:, 0]


def _place(last: np.ndarray, bonds: np.ndarray, angles: np.ndarray, dihedrals: np.ndarray) -> np.ndarray:
    """The residue [3, ...] after the `last` three [3, ..., 3], at a distance, bond angle and dihedral [...]."""
    first, on = last[..., 1] - last[..., 0], last[..., 2] - last[..., 1]
    on /= np.sqrt(np.sum(on**2, axis=0))
    normal = np.cross(first, on, axis=0)
    normal /= np.sqrt(np.sum(normal**2, axis=0))
    across = np.cross(normal, on, axis=0)
    sine = np.sin(angles)
    turned = -np.cos(angles) * on + sine * np.cos(dihedrals) * across + sine * np.sin(dihedrals) * normal
    return last[..., 2] + bonds * turned
