"""Windows of one length out of chains: a way to small models, where the published ones take whole chains."""

import numpy as np

from equiscale.data.chains import Chains, unbroken_chains

CUT = 0.43  # nm between neighbouring C-alpha, above which no window crosses


def crops(chains: Chains, length: int, stride: int | None = None) -> Chains:
    """All windows of `length` neighbouring residues that are nowhere more than 0.43 nm apart, each centred.

    In each unbroken stretch windows start every `stride` residues, by default `length`, so that none overlap. Residues
    are numbered from 1 and no break is marked; clusters are those of the chains, and so split before or after. Names
    tell the residue numbers: "1aki_A 65-128".

    Raises ValueError for a length below 2, a stride below 1, or when no stretch is long enough.
    """
    stride = length if stride is None else stride
    if length < 2 or stride < 1:
        raise ValueError(f"length={length}, stride={stride}: give at least 2 and 1")
    rows, starts = [], []
    for row in range(len(chains)):
        for first, end in stretches(chains[row]):
            found = range(first, end - length + 1, stride)
            starts += found
            rows += [row] * len(found)
    if not rows:
        raise ValueError(f"{chains!r} has no unbroken stretch of {length} residues: give a shorter length")
    places = np.array(starts)[:, None] + np.arange(length)
    positions, index = chains.positions[np.array(rows)[:, None], places], chains.index[np.array(rows)[:, None], places]
    return unbroken_chains(
        positions,
        [f"{chains.names[row]} {i[0]}-{i[-1]}" for row, i in zip(rows, index, strict=True)],
        f"{length}-residue crops of {chains.source}",
        [chains.clusters[row] for row in rows],
        [chains.sequences[row][start : start + length] for row, start in zip(rows, starts, strict=True)],
    )


def stretches(positions: np.ndarray) -> np.ndarray:
    """First residue and end [m, 2] of the stretches of positions [n_residues, 3] in nm with no gap above 0.43 nm."""
    distances = np.linalg.norm(np.diff(positions.astype(np.float64), axis=0), axis=1)
    cuts = np.flatnonzero(distances > CUT) + 1
    return np.stack([np.append(0, cuts), np.append(cuts, len(positions))], axis=1)
