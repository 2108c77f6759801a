"""How alike two chains of one length are in fold: the TM-score, residue i of one standing for residue i of the other.

Zhang and Skolnick, Proteins 57, 702 (2004): the greatest mean over residues of 1 / (1 + (d / d0)^2) that any
superposition reaches, d the distance of two residues and d0 a length that grows with the chain's. 1 for the same fold
wherever it lies, above 0.5 for like folds, about 0.2 for unlike ones; a mirror image is another fold.
"""

import numpy as np
from jaxtyping import Float

from equiscale.data.superposition import turns

FRAGMENTS = (1, 2, 4, 8)  # starts superpose fragments of 1/1, 1/2 ... of the chain, half a fragment apart
SHORTEST = 4  # residues in a fragment
STEPS = 4, 16  # of all starts, then of the best
KEPT = 3  # starts that are followed to the end
PAIRS = 64  # scored together, so that memory does not grow


def tm_scale(n_residues: int) -> float:
    """d0 in nm: 1.24 (n - 15)^(1/3) - 1.8 angstrom, at least 0.5 angstrom, which it is up to 21 residues."""
    return max(1.24 * np.cbrt(n_residues - 15) - 1.8, 0.5) / 10


def tm_score(first: Float[np.ndarray, "m n 3"], second: Float[np.ndarray, "m n 3"]) -> Float[np.ndarray, " m"]:
    """TM-scores of m pairs of chains of n residues in nm, in (0, 1], the same in either order.

    The superposition is sought from fragments along the chain, as published. Each step is a Kabsch superposition with
    weights (1 + (d / d0)^2)^-2: the score is convex in d^2 with these slopes, so that no step lowers it. What is found
    is a local maximum, thus a lower bound.

    Raises ValueError for chains of other lengths: compare windows of one length, which `chain_crops.crops` cuts.
    """
    if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3 or first.shape[1] < SHORTEST:
        raise ValueError(
            f"chains {first.shape} and {second.shape}: give [m, n, 3] twice, n at least {SHORTEST}; "
            "equiscale.data.chain_crops cuts windows of one length"
        )
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    blocks = [slice(i, i + PAIRS) for i in range(0, len(first), PAIRS)]
    return np.concatenate([_best(first[block], second[block]) for block in blocks] or [np.zeros(0)])


def diversity(chains: Float[np.ndarray, "m n 3"]) -> float:
    """Mean TM-score over pairs of different chains: the lower, the more diverse. Raises ValueError for fewer than 2."""
    if len(chains) < 2:
        raise ValueError(f"{len(chains)} chains: give at least 2")
    i, j = np.triu_indices(len(chains), 1)
    return float(tm_score(chains[i], chains[j]).mean())


def nearest(
    chains: Float[np.ndarray, "m n 3"], references: Float[np.ndarray, "r n 3"]
) -> tuple[Float[np.ndarray, " m"], np.ndarray]:
    """The greatest TM-score of each chain to a reference, and which: the lower, the more novel. m r pairs are scored.

    Raises ValueError for no reference, or other lengths.
    """
    if not len(references):
        raise ValueError("no reference: give at least one chain")
    scores = np.stack([tm_score(np.broadcast_to(chain, references.shape), references) for chain in chains])
    return scores.max(axis=1), scores.argmax(axis=1)


def _best(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    m, n, _ = first.shape
    starts = _fragments(n)
    pair = np.repeat(np.arange(m), len(starts))
    scores, weights = _climb(first[pair], second[pair], np.tile(starts, (m, 1)), STEPS[0])
    kept = min(KEPT, len(starts))
    order = np.argsort(-scores.reshape(m, -1), axis=1)[:, :kept]
    chosen = (order + np.arange(m)[:, None] * len(starts)).ravel()
    pair = np.repeat(np.arange(m), kept)
    scores, _ = _climb(first[pair], second[pair], weights[chosen], STEPS[1])
    return scores.reshape(m, kept).max(axis=1)


def _fragments(n: int) -> np.ndarray:
    """Weights [starts, n]: 1 within a fragment, 0 elsewhere."""
    rows = []
    for size in sorted({max(n // parts, SHORTEST) for parts in FRAGMENTS}, reverse=True):
        first = sorted({*range(0, n - size + 1, max(size // 2, 1)), n - size})
        rows += [(np.arange(n) >= i) & (np.arange(n) < i + size) for i in first]
    return np.array(rows, np.float64)


def _climb(first: np.ndarray, second: np.ndarray, weights: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores after `steps` weighted superpositions, and the weights of the next."""
    scale = tm_scale(first.shape[1])
    for _ in range(steps):
        w = (weights / weights.sum(axis=1, keepdims=True))[:, :, None]
        a, b = first - (w * first).sum(axis=1, keepdims=True), second - (w * second).sum(axis=1, keepdims=True)
        closeness = 1 / (1 + np.sum((b @ turns(a, b, w[:, :, 0]) - a) ** 2, axis=2) / scale**2)
        weights = closeness**2
    return closeness.mean(axis=1), weights
