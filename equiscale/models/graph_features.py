"""What a rotation does not change in a graph: distances in Gaussians, angles, bond-orientational order.

And the one thing it does change, the unit vectors along the edges.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Shaped

from equiscale.data.graphs import Graph


class Features(NamedTuple):
    """Of a `Graph`: all invariant under rotations but `direction`. Zeros in empty slots."""

    species: Int[Array, "*batch atoms"]
    neighbours: Int[Array, "*batch atoms k"]
    slots: Bool[Array, "*batch atoms k"]  # those that carry messages
    direction: Float[Array, "*batch atoms k 3"]  # unit vectors, from neighbour to atom
    cosines: Float[Array, "*batch atoms k k"]  # of the angles between edges of one atom
    radial: Float[Array, "*batch atoms k n_rbf"]
    order: Float[Array, "*batch atoms n_degrees"]


def features(graph: Graph, cutoff: float, n_rbf: int, n_degrees: int) -> Features:
    """Features in the precision of the positions, float32 at least, with `cutoff` in angstrom.

    An atom without neighbours gets a message from itself, in its first slot, so that its latents depend on its
    species and no softmax is over nothing. That slot has no direction: the atom feels no force. (The published code
    gives it the direction x, which a rotation would not turn.)
    """
    check_graph(graph)
    graph = jax.tree.map(jnp.asarray, graph)
    graph = graph._replace(positions=graph.positions.astype(jnp.promote_types(graph.positions.dtype, jnp.float32)))
    direction, distance = edges(graph)
    cosines = jnp.einsum("...jc,...kc->...jk", direction, direction, precision=lax.Precision.HIGHEST)
    return Features(
        graph.species,
        graph.neighbours,
        graph.mask.at[..., 0].set(True),
        direction,
        cosines,
        jnp.where(graph.mask[..., None], gaussians(distance, cutoff, n_rbf), 0),
        bond_order(cosines, graph.mask, n_degrees),
    )


def check_graph(graph: Graph) -> None:
    """Raises ValueError where the shapes of a graph disagree."""
    *rows, k = graph.neighbours.shape
    expected = {
        "positions": (*rows, 3),
        "species": tuple(rows),
        "mask": (*rows, k),
        "shifts": (*rows, k, 3),
        "cell": (*rows[:-1], 3, 3),
    }
    for name, shape in expected.items():
        found = getattr(graph, name).shape
        if found != shape:
            raise ValueError(
                f"{name} has shape {list(found)}, but neighbours {list(graph.neighbours.shape)} need {list(shape)}: "
                "give [*batch, atoms, k] as `equiscale.data.neighbours.build` does"
            )


def of_neighbours(
    x: Shaped[Array, "*batch atoms f"], index: Int[Array, "*batch atoms k"]
) -> Shaped[Array, "*batch atoms k f"]:
    """What the neighbour in each slot has."""

    def take(x, index):
        return x.at[index].get(mode="clip")

    for _ in range(index.ndim - 2):
        take = jax.vmap(take)
    return take(x, index)


def edges(graph: Graph) -> tuple[Float[Array, "*batch atoms k 3"], Float[Array, "*batch atoms k"]]:
    """Unit vectors from neighbours to atoms, and distances in angstrom; zeros, of derivative zero, in empty slots."""
    images = jnp.einsum(
        "...nks,...sc->...nkc", graph.shifts.astype(graph.positions.dtype), graph.cell, precision=lax.Precision.HIGHEST
    )
    vectors = graph.positions[..., None, :] - of_neighbours(graph.positions, graph.neighbours) - images
    # The square root of an empty slot would have an infinite derivative, which times zero is not zero.
    filled = graph.mask[..., None]
    vectors = jnp.where(filled, vectors, jnp.ones_like(vectors))
    distance = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return jnp.where(filled, vectors / distance, 0), jnp.where(filled, distance, 0)[..., 0]


def gaussians(distance: Float[Array, "*any"], cutoff: float, n: int) -> Float[Array, "*any n"]:
    """Gaussians of the distance with centres evenly on [0, cutoff], twice as wide (sigma) as they are apart."""
    centres = jnp.linspace(0, cutoff, n, dtype=distance.dtype)
    width = 2 * cutoff / (n - 1)
    return jnp.exp(-0.5 * jnp.square((distance[..., None] - centres) / width))


def envelope(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Of distances over the cutoff: from 1 at 0 down to 0 at 1 and beyond, with two continuous derivatives."""
    return jnp.where(x < 1, 1 - x**3 * (10 - 15 * x + 6 * x**2), 0)


def bond_order(
    cosines: Float[Array, "*any k k"], mask: Bool[Array, "*any k"], n_degrees: int
) -> Float[Array, "*any n_degrees"]:
    """Steinhardt's bond-orientational order of degrees 0 to n_degrees - 1; zeros for an atom without neighbours.

    q_l^2 = sum_m (mean over neighbours of Y_lm)^2, with sum_m Y_lm^2 = 2 l + 1, is by the addition theorem
    (2 l + 1) times the mean of P_l(cosine) over pairs of neighbours, an atom with itself included.

    Where it is zero by symmetry (crystals) the mean of the P_l is rounding, which the root would magnify to 3e-4 in
    float32, differently for every orientation. So the root is taken of no less than that rounding: there q_l is a
    constant and its derivative zero.
    """
    share = mask / jnp.maximum(jnp.sum(mask, -1, keepdims=True), 1).astype(cosines.dtype)
    least = 16 * jnp.finfo(cosines.dtype).eps
    found, lower, upper = [], jnp.ones_like(cosines), cosines
    for degree in range(n_degrees):
        mean = jnp.einsum("...j,...jk,...k->...", share, lower, share, precision=lax.Precision.HIGHEST)
        found.append(jnp.sqrt((2 * degree + 1) * jnp.maximum(mean, least)))
        lower, upper = upper, ((2 * degree + 3) * cosines * upper - (degree + 1) * lower) / (degree + 2)
    return jnp.where(jnp.any(mask, -1, keepdims=True), jnp.stack(found, -1), 0)
