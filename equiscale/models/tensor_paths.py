"""Tensor products channel by channel of features `[*items, K, C]` (see `spherical_layers`), path by path.

A path (l1, l2, l3) couples degrees l1 and l2 to l3 by Clebsch-Gordan coefficients; each has a weight for each channel.
Odd l1 + l2 + l3 are among them: the cross product is, which no product of functions at points contains.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale.models import e3nn
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


class _Pair(NamedTuple):
    """Two degrees, as matrices: what repeats the rows of either for all pairs of rows, and the sums paths end in."""

    first: slice
    second: slice
    repeat_first: Float[np.ndarray, "ab a"]
    repeat_second: Float[np.ndarray, "ab b"]
    sums: Float[np.ndarray, "m ab"]
    ends: tuple[int, ...]  # degrees, one path each, that share the m rows


@lru_cache
def _pairs(degree: int) -> list[_Pair]:
    pairs = []
    for (a, b), of in itertools.groupby(paths(degree), key=lambda path: path[:2]):
        ends = tuple(c for *_, c in of)
        n_first, n_second = 2 * a + 1, 2 * b + 1
        sums = np.concatenate([coefficients((a, b, c)).reshape(n_first * n_second, -1).T for c in ends])
        first, second = np.repeat(np.eye(n_first), n_second, axis=0), np.tile(np.eye(n_second), (n_first, 1))
        pairs.append(_Pair(_rows(a), _rows(b), first, second, sums, ends))
    return pairs


def product(x: Coefficients, y: Coefficients, weights: Float[Array, "*items paths c"]) -> Coefficients:
    """The product of two features, channel by channel, weighted by path and channel."""
    # Rows come first, so that all are products of small matrices with [rows, items x channels]: nothing is transposed
    # on the way, and XLA has no reductions over few rows, which are slow on CPU.
    degree = degree_of(x)
    x, y, weights = (jnp.moveaxis(a, -2, 0) for a in (x, y, weights))

    def mixed(matrix, rows):
        return jnp.einsum("ij,j...->i...", jnp.asarray(matrix, rows.dtype), rows, precision="highest")

    found, weight = [[] for _ in range(degree + 1)], iter(weights)
    for pair in _pairs(degree):
        products = mixed(pair.repeat_first, x[pair.first]) * mixed(pair.repeat_second, y[pair.second])
        parts = jnp.split(mixed(pair.sums, products), np.cumsum([2 * c + 1 for c in pair.ends[:-1]]))
        for end, part in zip(pair.ends, parts, strict=True):
            found[end].append(part * next(weight))
    # Over the root of the number of paths that end at each degree, so that size is kept.
    return jnp.moveaxis(jnp.concatenate([sum(parts) / len(parts) ** 0.5 for parts in found]), 0, -2)
