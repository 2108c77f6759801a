"""The parameters of exactly equivariant models: a linear subspace E, the orthogonal projection onto it, and the rest.

A layer with kernel W is equivariant where W is a fixed point of the group's action on kernels, W -> rho_out(g)^-1 W
rho_in(g). So the projection onto E is the average of that action over the group,

    W_E = E_g g.W,    W_perp = W - W_E        (section 4.2 and A.1 of the training-dynamics paper)

exact for finite groups (`enumerate`) and, by quadrature of a high enough degree, for SO(3). Here an action on kernels
is a function (g, W) -> W like any other, made from those on the layer's inputs and outputs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from equiscale import actions
from equiscale.actions import Action, trivial
from equiscale.average import streamed_average
from equiscale.measures import Measure
from equiscale.varying import varying_zero


class Split(NamedTuple):
    """theta = equivariant + complement, two orthogonal pytrees of parameters."""

    equivariant: Any
    complement: Any

    def scaled(self, s: float | Array) -> Any:
        """equivariant + s complement: 1 is the model itself, 0 its exactly equivariant twin."""
        return jax.tree.map(lambda e, c: e + s * c, self.equivariant, self.complement)


# --- actions on kernels ------------------------------------------------------------------------------------------


def kernel(*acts: Action) -> Action:
    """The action on a kernel from one action per axis: `kernel(act_in, act_out)` for `[in, out]` and x -> x W.

    Actions take vectors of that axis' length and must be orthogonal, as all of `equiscale.actions` but translations
    are. A bias is `kernel(act_out)`; an axis the group leaves alone is `trivial`.
    """

    def act(g, w):
        if w.ndim != len(acts):
            raise ValueError(f"{len(acts)} actions for a kernel of shape {list(w.shape)}: one for each axis, please")
        for axis, action in enumerate(acts):
            if action is not trivial:
                rows = jnp.moveaxis(w, axis, -1)
                turned = jax.vmap(lambda row, action=action: action(g, row))(rows.reshape(-1, rows.shape[-1]))
                w = jnp.moveaxis(turned.reshape(rows.shape), -1, axis)
        return w

    return act


def convolution(act_in: Action = trivial, act_out: Action = trivial) -> Action:
    """The action of the cube's group on a convolution kernel `[k, k, k, in, out]`: it turns, and its channels too."""

    def act(g, w):
        turned = jnp.moveaxis(actions.grid(g, jnp.moveaxis(w, (0, 1, 2), (-3, -2, -1))), (-3, -2, -1), (0, 1, 2))
        return kernel(trivial, trivial, trivial, act_in, act_out)(g, turned)

    return act


# --- projections -------------------------------------------------------------------------------------------------


def equivariant_part(parameters: Any, measure: Measure, acts: Any, *, key: PRNGKeyArray | None = None) -> Any:
    """The group average of parameters under actions on them (a pytree of actions, a prefix of `parameters`).

    An orthogonal projection for a group's own measure; a random measure needs a key and gives an unbiased estimate.
    Raises ValueError for a random measure without a key.
    """
    if key is None and not measure.deterministic:
        raise ValueError(f"{measure} draws elements: pass key=..., or use enumerate() or quadrature(degree)")
    elements = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), measure.draw(key))
    weights = np.full(measure.unit_size, 1 / measure.unit_size) if measure.weights is None else measure.weights

    def act(g):
        moved = actions.map_prefix(lambda path, action, leaf: action(g, leaf), acts, parameters, "parameters")
        return moved, {}

    return streamed_average(
        act,
        elements,
        np.tile(weights, measure.n_units) / measure.n_units,
        chunk=1,
        square=lambda tree: jnp.zeros(()),
        varying=varying_zero((parameters, elements)),
    ).mean


def split(parameters: Any, measure: Measure, acts: Any, *, key: PRNGKeyArray | None = None) -> Split:
    """Parameters as equivariant part and orthogonal complement; see `equivariant_part`."""
    inside = equivariant_part(parameters, measure, acts, key=key)
    return Split(inside, jax.tree.map(jnp.subtract, parameters, inside))


def force_head(w: Float[Array, "3 h"]) -> Split:
    """The split of EScAIP's force head, force_k = sum_e e_k (w_k . h_e), in closed form (section 4.3).

    It is equivariant if and only if w_x = w_y = w_z: E is the mean of the three rows, repeated, which is also the
    head's twirl.
    """
    if w.shape[:1] != (3,):
        raise ValueError(f"the head has one row for each of x, y, z: [3, h], got {list(w.shape)}")
    inside = jnp.broadcast_to(w.mean(0), w.shape)
    return Split(inside, w - inside)
