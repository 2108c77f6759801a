"""Tensor products channel by channel of features `[*items, K, C]` (see `spherical_layers`), path by path.

A path (l1, l2, l3) couples degrees l1 and l2 to l3 by Clebsch-Gordan coefficients; each has a weight for each channel.
Odd l1 + l2 + l3 are among them: the cross product is, which no product of functions at points contains.
"""

from functools import lru_cache

import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale.models.spherical_layers import Coefficients, degree_of


@lru_cache
def paths(degree: int) -> tuple[tuple[int, int, int], ...]:
    """All (l1, l2, l3) up to a degree."""
    degrees = range(degree + 1)
    return tuple((a, b, c) for a in degrees for b in degrees for c in range(abs(a - b), min(a + b, degree) + 1))


@lru_cache
def coefficients(path: tuple[int, int, int]) -> np.ndarray:
    """Of a path, [2 l1 + 1, 2 l2 + 1, 2 l3 + 1], scaled so that of independent unit rows unit rows come out."""
    return np.asarray(e3nn.clebsch_gordan(*path)) * np.sqrt(2 * path[2] + 1)


def _rows(degree: int) -> slice:
    return slice(degree**2, (degree + 1) ** 2)


def product(x: Coefficients, y: Coefficients, weights: Float[Array, "*items paths c"]) -> Coefficients:
    """The product of two features, channel by channel, weighted by path and channel."""
    degree = degree_of(x)
    found = _empty(x)
    for i, path in enumerate(paths(degree)):
        cg = jnp.asarray(coefficients(path), x.dtype)
        part = jnp.einsum("...ac,...bc,abm->...mc", x[..., _rows(path[0]), :], y[..., _rows(path[1]), :], cg)
        found[path[2]].append(part * weights[..., i, None, :])
    return _joined(found)


def _empty(x: Coefficients) -> list[list[Array]]:
    return [[] for _ in range(degree_of(x) + 1)]


def _joined(parts: list[list[Array]]) -> Coefficients:
    """Sums of the paths that end at each degree, over the root of their number, so that size is kept."""
    return jnp.concatenate([sum(p) / len(p) ** 0.5 for p in parts], axis=-2)
