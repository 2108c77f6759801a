"""Per-example losses the decomposition runs on: squared error exactly, any other convex loss through its twirl."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equiscale import actions
from equiscale.actions import Segments


class Loss(NamedTuple):
    """A convex loss of a prediction, for losses other than squared error.

    `value(prediction, target)` gives one number per example, `[batch]`. `space` names what the prediction is, since
    the twirl averages in it ("logits", "probabilities", "forces"): the same classifier has different shares of
    equivariance error in different spaces.
    """

    value: Callable[[Any, Any], Float[Array, " batch"]]
    name: str
    space: str


def square_norm(
    acts: Any, like: Any, n_examples: int, *, mask: Any = None, segments: Segments = None
) -> tuple[Callable[[Any], Float[Array, " batch"]], Float[Array, " batch"]]:
    """The mean square per component of each example: `(tree -> [batch], number of components [batch])`.

    |d|^2 / D_i with D_i the number of components of example i that `mask` leaves (its weights summed, if it holds
    numbers), over all leaves together. Masked entries may hold anything, NaN included.

    Raises ValueError for a mask that does not fit `like`.
    """
    masks = mask_leaves(mask, like)

    def per_example(path, action, leaf, kept):
        summed = jnp.where(kept > 0, kept, 0) * jnp.where(kept > 0, leaf, 0)
        summed = summed.reshape(leaf.shape[0], -1).sum(-1)
        if isinstance(action, actions.segmented):
            return jax.ops.segment_sum(summed, action.rows(segments), n_examples)
        return summed

    def total(tree):
        flat = iter(masks)
        parts = actions.map_prefix(
            lambda path, action, leaf: per_example(path, action, leaf, next(flat).astype(leaf.dtype)),
            acts,
            tree,
            "output",
        )
        return sum(jax.tree.leaves(parts))

    components = total(jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.result_type(float)), like))

    def mean_square(tree):
        squares = total(jax.tree.map(jnp.square, tree))
        return squares / jnp.where(components > 0, components, 1).astype(squares.dtype)

    return mean_square, components


def mask_leaves(mask: Any, like: Any) -> list[Array]:
    """One mask per leaf of `like`, with its trailing axes made explicit; None stands for everything."""
    leaves, structure = jax.tree.flatten(like)
    if mask is None:
        masks = [None] * len(leaves)
    else:
        masks, mask_structure = jax.tree.flatten(mask, is_leaf=lambda m: m is None)
        if len(masks) != len(leaves):
            raise ValueError(f"the mask must be a pytree like the target: {mask_structure} against {structure}")
    fitted = []
    for m, leaf in zip(masks, leaves, strict=True):
        if m is None:
            m = True
        m = jnp.asarray(m)
        m = m.reshape(m.shape + (1,) * (leaf.ndim - m.ndim)) if m.ndim <= leaf.ndim else m
        if m.ndim != leaf.ndim or any(a not in (1, b) for a, b in zip(m.shape, leaf.shape, strict=True)):
            raise ValueError(
                f"a mask of shape {list(m.shape)} does not fit a target of shape {list(leaf.shape)}: its axes must "
                "be the target's leading ones (e.g. [batch, atoms] for [batch, atoms, 3]), or 1"
            )
        fitted.append(m)
    return fitted
