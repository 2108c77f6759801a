"""Batches of atomic structures as graphs in dense layout: every atom has the same number of neighbour slots.

Attention among the neighbours of an atom is then a batch of small matrix products and a sum over neighbours is a sum
over an axis; nothing is scattered. Each structure is one row of the batch, so that a batch of a padded bucket
(`equiscale.data.buckets`) is an index into arrays, examples are decomposed one by one without `segments`, and batches
spread over devices by their leading axis.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8

from equiscale.actions import trivial, vectors


class Graph(NamedTuple):
    """Structures and who neighbours whom in them; any leading axes, none for a single structure.

    Positions are in angstrom. Padding atoms have species 0 and may stand anywhere. Slots are sorted by distance,
    filled ones first; empty ones name the atom itself. The neighbour in a slot is the image of its atom that
    `shifts` lattice vectors away, so that edges can be computed again from turned positions and a turned cell: which
    atoms are neighbours is found once, before any turning.
    """

    positions: Float[Array, "*batch atoms 3"]
    species: Int[Array, "*batch atoms"]  # atomic numbers
    neighbours: Int[Array, "*batch atoms k"]  # indices along the axis of atoms
    mask: Bool[Array, "*batch atoms k"]  # the slots that are filled
    shifts: Int8[Array, "*batch atoms k 3"]
    cell: Float[Array, "*batch 3 3"]  # lattice vectors as rows; zeros where the structure does not repeat

    @property
    def is_atom(self) -> Bool[Array, "*batch atoms"]:
        """Which atoms are none of the padding."""
        return self.species > 0


# How rotations, and reflections, act on a graph: leaf by leaf, for `equiscale.Symmetry`.
TURNED = Graph(positions=vectors, species=trivial, neighbours=trivial, mask=trivial, shifts=trivial, cell=vectors)


def within(
    positions: Float[Array, "*batch atoms 3"], species: Int[Array, "*batch atoms"], k: int, cutoff: float
) -> Graph:
    """Graphs of molecules whose atoms move, found on the device: what `neighbours.build` finds on the host.

    The k nearest atoms within `cutoff` angstrom; nothing repeats. For a trajectory, in which neighbours change; what is
    turned keeps the graph it has.
    """
    n = species.shape[-1]
    apart = positions[..., :, None, :] - positions[..., None, :, :]
    real = species > 0
    pairs = real[..., :, None] & real[..., None, :] & ~jnp.eye(n, dtype=bool)
    distance = jnp.sqrt(jnp.where(pairs, jnp.square(apart).sum(-1), jnp.inf))
    near, index = jax.lax.top_k(-jnp.where(distance <= cutoff, distance, jnp.inf), min(k, n))
    mask = jnp.isfinite(near)
    index = jnp.where(mask, index, jnp.arange(n)[:, None]).astype(jnp.int32)
    empty = [(0, 0)] * (mask.ndim - 1) + [(0, k - min(k, n))]
    mask, index = jnp.pad(mask, empty), jnp.where(jnp.pad(mask, empty), jnp.pad(index, empty), jnp.arange(n)[:, None])
    shifts = jnp.zeros((*mask.shape, 3), jnp.int8)
    return Graph(positions, species, index, mask, shifts, jnp.zeros((*species.shape[:-1], 3, 3), positions.dtype))
