"""The loss components of direct forces in closed form, as functions of chosen parameters: exact over all rotations.

One pass of the model gives the moments of its forces, and these both components without a rotation
(`equiscale.force_algebra`). So Hessians cost a pass each instead of one a rotation, and hold no noise of rotations.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from equiscale import actions, force_algebra, frozen
from equiscale.components import Components, Data, as_type, chosen_vector, entry_weights
from equiscale.parameters import insert


class HeadComponents(Components):
    """`Components` whose `rest` gives moments and weights of a force head, flattened, in the place of predictions.

    There are no group elements, so `jacobian_rows`, which are those of each element's predictions, raise
    NotImplementedError.
    """

    def __init__(self, *args, unflatten: Callable[[Array], Any]):
        self._unflatten = unflatten
        super().__init__(*args)

    def _both(self, data: Data, vector: Array) -> Float[Array, "2"]:
        """Mean and equivariance loss."""
        moments, weight = self._unflatten(self.rest(vector, data.constants, data.features))
        of_atoms = data.entry.reshape(moments.shape[:-1]).sum(-1)  # three components count alike
        parts = force_algebra.atom_losses(moments, weight, data.target.reshape(moments.shape[:-1]))
        return jnp.stack([jnp.sum(jnp.where(of_atoms > 0, of_atoms * part, 0)) for part in parts])

    def losses_of(self, data, vector):
        mean, equiv = self._both(data, vector)
        return {"total": mean + equiv, "mean": mean, "equiv": equiv}

    def gradients_of(self, data, vector):
        mean, equiv = jax.jacrev(self._both, argnums=1)(data, vector)
        return {"total": mean + equiv, "mean": mean, "equiv": equiv}

    def products_of(self, data, vector, directions, parts):
        push = jax.linearize(lambda v: self.gradients_of(data, v), vector)[1]
        moved = jax.vmap(push)(directions)
        return {part: moved[part] for part in parts}

    def jacobian_rows_of(self, data, vector, index):
        raise NotImplementedError("components in closed form have no group elements: use equiscale.components")


def head_components(
    force_moments: Callable[[Any, Any], tuple[Float[Array, "batch atoms 3 h"], Float[Array, "3 h"]]],
    params: Any,
    x: Any,
    y: Float[Array, "batch atoms 3"],
    *,
    only: str | Sequence[str] = "*",
    mask: Bool[Array, "batch atoms"] | None = None,
    weight: Float[Array, " batch"] | None = None,
    dtype: Any = jnp.float64,
) -> HeadComponents:
    """The squared-error components of the forces that `force_moments(params, x) -> moments, weight` makes.

    They are what `equiscale.components.components` gives for the same forces and rotations that average polynomials of
    degree 4 exactly. Arguments as there; raises what `equiscale.parameters.select` raises.
    """
    double = jnp.dtype(dtype) == jnp.float64
    with jax.enable_x64(True) if double else contextlib.nullcontext():
        params, x, y, mask, weight = (as_type(tree, dtype) for tree in (params, x, y, mask, weight))
        names, vector, unravel = chosen_vector(params, only)
        entry = entry_weights(actions.vectors, y, len(y), mask=mask, weight=weight)

        def made(vector):
            return tuple(force_moments(insert(params, unravel(vector)), x))

        shapes = jax.eval_shape(made, vector)
        sizes = [shape.size for shape in shapes]

        def flat(vector, _):
            return jnp.concatenate([leaf.astype(dtype).ravel() for leaf in made(vector)])

        def unflatten(z):
            return [part.reshape(s.shape) for part, s in zip(jnp.split(z, sizes[:1]), shapes, strict=True)]

        parts = frozen.split(flat, vector, ())
        data = Data(parts.constants(), [], jnp.ones(1, dtype), entry, y.reshape(-1))
    return HeadComponents(parts.rest, data, vector, names, unravel, "SO(3) in closed form", unflatten=unflatten)
