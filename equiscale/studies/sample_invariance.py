"""Is the distribution of samples invariant? A generator may err at every point and still sample all orientations alike.

Compared are samples as they are and other samples each turned at random, whose distribution is invariant. The energy
distance of two distributions, 2 E|a - b| - E|a - a'| - E|b - b'|, is zero if and only if they are the same (Szekely and
Rizzo, J. Statistical Planning and Inference 2013, 143, 1249). Its significance is by exchange of the samples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

N_EXCHANGES = 499

Samples = Float[np.ndarray, "m n 3"]


def orientation(samples: Samples) -> Float[np.ndarray, "m 9"]:
    """How a sample lies, whatever its shape: its second moments over their trace, and the direction of its ends."""
    second = np.einsum("mni,mnj->mij", samples, samples)
    second /= np.trace(second, axis1=1, axis2=2)[:, None, None]
    ends = samples[:, -1] - samples[:, 0]
    ends /= np.linalg.norm(ends, axis=1, keepdims=True)
    upper = np.triu_indices(3)
    return np.concatenate([second[:, upper[0], upper[1]], ends], axis=1)


def positions(samples: Samples) -> Float[np.ndarray, "m d"]:
    """All coordinates side by side."""
    return samples.reshape(len(samples), -1)


FEATURES: dict[str, Callable[[Samples], np.ndarray]] = {"orientation": orientation, "positions": positions}


def invariance(samples: Samples, seed: int = 0) -> dict[str, dict[str, Any]]:
    """For each of `FEATURES`: `distance` between a half of centred samples and the other half turned, over the mean
    distance of two samples; the `control` with that half as it is; and `p_value`, the share of exchanges of samples
    between the halves that are as far apart.

    Raises ValueError for fewer than 8 samples.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples: give at least 8, in two halves")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))
    samples = np.asarray(samples, np.float64)[order] - np.asarray(samples, np.float64)[order].mean(1, keepdims=True)
    half = len(samples) // 2
    first, second = samples[:half], samples[half:]
    turns = Rotation.random(len(second), rng=rng).as_matrix()
    turned = np.einsum("mij,mnj->mni", turns, second)
    found = {}
    for name, features in FEATURES.items():
        apart, p_value = _compared(features(first), features(turned), rng)
        control, control_p = _compared(features(first), features(second), rng)
        found[name] = {"distance": apart, "p_value": p_value, "control": control, "control_p_value": control_p}
    return found


def energy_distance(apart: Float[np.ndarray, "m m"], n_first: int) -> float:
    """Of the first samples and the others, by their mutual distances, without bias; over the mean distance of two."""
    a, b = n_first, len(apart) - n_first
    between = apart[:a, a:].mean()
    within = apart[:a, :a].sum() / (a * (a - 1)), apart[a:, a:].sum() / (b * (b - 1))
    return float((2 * between - sum(within)) / between)


def _compared(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    both = np.concatenate([first, second])
    apart = cdist(both, both)
    found = energy_distance(apart, len(first))
    exchanged = []
    for _ in range(N_EXCHANGES):
        order = rng.permutation(len(both))
        exchanged.append(energy_distance(apart[np.ix_(order, order)], len(first)))
    return found, (1 + sum(e >= found for e in exchanged)) / (1 + N_EXCHANGES)
