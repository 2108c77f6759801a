"""Tensor products of features `[*items, K, C]` with the harmonics of an edge, in a frame whose axis the edge is.

There harmonics are zero but for order 0, and a product takes order m of one degree to orders m and -m of another only
(Passaro and Zitnick, arXiv 2302.03655): 29 products of rows at L = 2, where the matrices of any frame have 179. What
commutes with rotations, as linear maps by degree and gates do, may be done in the frame too, so that a message turns in
once and back once. The paths and their weights are those of `tensor_paths`, and so are the numbers, up to rounding.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from equiscale.models.spherical_layers import Coefficients, degree_of
from equiscale.models.tensor_paths import coefficients, paths
from equiscale.wigner import wigner_d


def edge_frames(direction: Float[Array, "*items 3"], degree: int) -> Float[Array, "*items K K"]:
    """How coefficients turn when these unit vectors are turned to the axis y, about which e3nn's orders are.

    Which of the rotations that do so is taken jumps at y = 0; products do not depend on it.
    """
    down = direction[..., 1:2] < 0
    # The reflection that swaps the direction and -y, or y if that is further away, then one that makes it a rotation.
    apart = direction - jnp.where(down, 1, -1) * jnp.asarray([0, 1, 0], direction.dtype)
    apart = apart / jnp.linalg.norm(apart, axis=-1, keepdims=True)
    reflection = jnp.eye(3, dtype=direction.dtype) - 2 * apart[..., :, None] * apart[..., None, :]
    signs = jnp.where(down, jnp.asarray([-1, 1, 1], direction.dtype), jnp.asarray([1, -1, 1], direction.dtype))
    return wigner_d(signs[..., :, None] * reflection, degree)


def into_frames(x: Coefficients, frames: Float[Array, "*items K K"]) -> Coefficients:
    """Coefficients in the frames."""
    rows, found = _rows(x), []
    for degree in range(degree_of(x) + 1):
        own = slice(degree**2, (degree + 1) ** 2)
        block = frames[..., own, own]
        entries = iter(_rows(block.reshape(*block.shape[:-2], -1, 1)))
        found += [sum(next(entries) * row for row in rows[own]) for _ in rows[own]]
    return jnp.stack(found, axis=-2)


def summed_from_frames(
    x: Float[Array, "*items k K C"], frames: Float[Array, "*items k K K"]
) -> Float[Array, "*items K C"]:
    """Coefficients of k frames back in one, and summed over them."""
    *items, k, n_rows, channels = x.shape
    back = frames.reshape(*items, k * n_rows, n_rows).mT
    return jnp.matmul(back, x.reshape(*items, k * n_rows, channels), precision="highest")


def order_weights(weights: Float[Array, "*items paths c"], degree: int) -> Float[Array, "*items orders c"]:
    """Weights of paths to those of products in the frame, which are linear in them."""
    mixing, _ = _products(degree)
    return jnp.einsum("...pc,pq->...qc", weights, jnp.asarray(mixing, weights.dtype), precision="highest")


def coupled(x: Coefficients, weights: Float[Array, "*items orders c"]) -> Coefficients:
    """The product of x with the harmonics of the edge, both in its frame, with weights of `order_weights`.

    It is `tensor_paths.product` of x and sqrt(4 pi) times the orthonormal harmonics, with the same weights of paths.
    """
    _, terms = _products(degree_of(x))
    rows, weights = _rows(x), _rows(weights)
    return jnp.stack([sum(sign * weights[q] * rows[a] for a, q, sign in row) for row in terms], axis=-2)


def _rows(x: Float[Array, "*items n c"]) -> list[Float[Array, "*items c"]]:
    """All rows at once: the derivative of that joins rows, where those of single rows would be padded and summed."""
    return [row[..., 0, :] for row in lax.split(x, (1,) * x.shape[-2], axis=x.ndim - 2)]


@lru_cache
def _products(degree: int) -> tuple[np.ndarray, list[list[tuple[int, int, float]]]]:
    """All products in a frame: the matrix [paths, orders] of their weights, and for each row that comes out its terms.

    A term is a row that goes in, the weight it is multiplied by, and a sign: up to it, weights are the same for m and
    -m, and so are those that take m to -m and -m to m.
    """
    ends = [c for _, _, c in paths(degree)]
    n_rows = (degree + 1) ** 2
    table = np.zeros((len(ends), n_rows, n_rows))  # what the weight of a path makes of a row, by row that comes out
    for i, (a, b, c) in enumerate(paths(degree)):
        along = (2 * b + 1) ** 0.5 * coefficients((a, b, c))[:, b, :]
        table[i, a**2 : (a + 1) ** 2, c**2 : (c + 1) ** 2] = along / ends.count(c) ** 0.5
    found: dict[tuple, tuple[int, np.ndarray]] = {}
    terms: list[list[tuple[int, int, float]]] = [[] for _ in range(n_rows)]
    place = [(d, m) for d in range(degree + 1) for m in range(-d, d + 1)]
    for c, a in np.argwhere(np.abs(table).max(0).T > 1e-6):
        (ended, order), (began, before) = place[c], place[a]
        weight = table[:, a, c]
        q, known = found.setdefault((ended, began, abs(order), order == before), (len(found), weight))
        terms[c].append((int(a), q, 1.0 if np.allclose(weight, known, atol=1e-6) else -1.0))
    return np.stack([weight for _, weight in found.values()], axis=1), terms
