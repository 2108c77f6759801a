"""Actions: pure functions `(g, x) -> x` of one group element on one example, and how to apply them to a batch.

Any function of that form is an action if act(g, act(h, x)) = act(g h, x). A pytree gets one action per leaf, as a
pytree of actions that is a prefix of it; a leaf left `trivial` is passed on untouched, which breaks the symmetry on
purpose (species, a time, an energy).

Everything runs at the highest matrix precision whatever the model uses: TF32 inside an action would read as broken
symmetry.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from equiscale.measures import Element
from equiscale.reorder import reorder
from equiscale.rotations import HIGHEST
from equiscale.wigner import wigner_d

Action = Callable[[Element, Array], Array]
Segments = Int[Array, " rows"] | Mapping[str, Int[Array, " rows"]] | None


# --- actions on one example ------------------------------------------------------------------------------------


def trivial(g: Element, x: Any) -> Any:
    """x -> x, for any shape: what the group does not act on, or what is left out on purpose."""
    return x


scalars = trivial  # the same map by the name that says it is meant: scalars do not turn


def vectors(g: Float[Array, "3 3"], x: Float[Array, "*any 3"]) -> Float[Array, "*any 3"]:
    """x -> R x for the last axis: coordinates, forces, dipoles, velocities."""
    if x.shape[-1:] != (3,):
        raise ValueError(f"vectors acts on [..., 3], got shape {list(x.shape)}")
    return jnp.einsum("ij,...j->...i", g.astype(x.dtype), x, precision=HIGHEST)


def tensors(rank: int) -> Action:
    """x -> (R x ... x R) x on the last `rank` axes: stress and polarisability are rank 2."""

    def act(g: Float[Array, "3 3"], x: Float[Array, "*any"]) -> Float[Array, "*any"]:
        if x.shape[-rank:] != (3,) * rank:
            raise ValueError(f"tensors({rank}) acts on [..., {', '.join('3' * rank)}], got shape {list(x.shape)}")
        for axis in range(-rank, 0):
            x = jnp.moveaxis(vectors(g, jnp.moveaxis(x, axis, -1)), -1, axis)
        return x

    return act


def irreps(irreps: str) -> Action:
    """x -> D(g) x for features in e3nn's notation and order, e.g. `irreps("16x0e + 8x1o")` on `[..., 40]`."""
    import e3nn_jax  # the only heavy import of the core, and only for who asks for it

    layout = e3nn_jax.Irreps(irreps)
    degree = max((ir.l for _, ir in layout), default=0)

    def act(g: Float[Array, "3 3"], x: Float[Array, "*any dim"]) -> Float[Array, "*any dim"]:
        if x.shape[-1:] != (layout.dim,):
            raise ValueError(f"irreps({layout}) acts on [..., {layout.dim}], got shape {list(x.shape)}")
        g = g.astype(jnp.promote_types(g.dtype, jnp.float32))
        sign = jnp.sign(jnp.linalg.det(g))
        d = wigner_d(sign * g, degree)
        parts = [x[..., :0]]
        for (mul, ir), where in zip(layout, layout.slices(), strict=True):
            rows = slice(ir.l**2, (ir.l + 1) ** 2)
            block = d[rows, rows] * jnp.where(sign < 0, ir.p, 1)
            part = x[..., where].reshape(*x.shape[:-1], mul, ir.dim)
            parts.append(jnp.einsum("ij,...j->...i", block, part, precision=HIGHEST).reshape(*x.shape[:-1], -1))
        return jnp.concatenate(parts, axis=-1).astype(x.dtype)

    return act


def grid(g: Float[Array, "3 3"], x: Shaped[Array, "*any n n n"]) -> Shaped[Array, "*any n n n"]:
    """Turn a voxel grid about its centre by a cube rotation (or rotoreflection), exactly: v'[g p] = v[p].

    The last three axes are x, y, z. Entries are moved, never interpolated, so g must be a signed permutation matrix.

    Raises ValueError for a grid that is not cubic, and for other elements wherever their value is known.
    """
    if x.ndim < 3 or len(set(x.shape[-3:])) != 1:
        raise ValueError(
            f"grid turns cubic grids [..., n, n, n], got shape {list(x.shape)}; pad the shorter axes to the longest"
        )
    if not isinstance(g, jax.core.Tracer):
        _check_signed_permutation(np.asarray(g))
    flat = jnp.asarray(x).reshape(*x.shape[:-3], -1)
    index, inverse = (_source_index(element, x.shape[-1]) for element in (g, g.T))
    return reorder(flat, index, inverse).reshape(x.shape)


def _check_signed_permutation(g: np.ndarray) -> None:
    if np.abs(np.abs(g) - np.rint(np.abs(g))).max() > 1e-4 or (np.rint(np.abs(g)).sum(-1) != 1).any():
        raise ValueError(
            f"grid turns by the cube's rotations only (signed permutation matrices), got\n{g.round(4)}\n"
            "use a measure on octahedral or full_octahedral; for general rotations turn the coordinates and "
            "voxelise again"
        )


def _source_index(g: Float[Array, "3 3"], n: int) -> Int[Array, " n*n*n"]:
    """For every voxel p of the turned grid, the flat index of g^-1 p.

    g is a signed permutation, so that index is a sum of one term per axis of p: three vectors of length n take the
    place of a table per element.
    """
    strides = jnp.array([n * n, n, 1])
    position = jnp.arange(n)
    forward = (g > 0.5) @ strides  # [axis of p]: stride of the source axis it runs along, or 0 ...
    backward = (g < -0.5) @ strides  # ... or against
    x, y, z = forward[:, None] * position + backward[:, None] * (n - 1 - position)
    return (x[:, None, None] + y[:, None] + z).ravel()


def roll(g: Int[Array, " 3"], x: Shaped[Array, "*any x y z"]) -> Shaped[Array, "*any x y z"]:
    """Shift a voxel grid by whole voxels along its last three axes, round its faces, exactly: v'[p + g] = v[p]."""
    if x.ndim < 3:
        raise ValueError(f"roll shifts grids [..., x, y, z], got shape {list(x.shape)}")
    return jnp.roll(x, g, axis=(-3, -2, -1))


def translate(g: Float[Array, " 3"], x: Float[Array, "*any 3"]) -> Float[Array, "*any 3"]:
    """x -> x + t: positions. Displacements and forces are `trivial` under translations."""
    if x.shape[-1:] != (3,):
        raise ValueError(f"translate acts on [..., 3], got shape {list(x.shape)}")
    return x + g.astype(x.dtype)


def permute(axis: int) -> Action:
    """Reorder one axis of an example: what sat in slot i goes to slot p[i]. `axis` counts without the batch."""

    def act(g: Int[Array, " n"], x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        if not -x.ndim <= axis < x.ndim or x.shape[axis] != g.shape[0]:
            raise ValueError(
                f"permute(axis={axis}) of {g.shape[0]} items cannot act on an example of shape {list(x.shape)}"
            )
        return jnp.take(x, jnp.argsort(g), axis=axis, mode="clip", unique_indices=True)

    return act


def conjugate(g: Int[Array, " n"], x: Shaped[Array, "*any n n"]) -> Shaped[Array, "*any n n"]:
    """x -> P x P^T on the last two axes: adjacency and pair matrices under a permutation."""
    return permute(-1)(g, permute(-2)(g, x))


# --- combining actions -----------------------------------------------------------------------------------------


def on(factor: int, action: Action) -> Action:
    """Act by one factor of a product group's element: `on(1, permute(0))`."""
    return lambda g, x: action(g[factor], x)


def chain(*actions: Action) -> Action:
    """Apply several actions of one element in turn, the first first. They must commute to be an action together."""

    def act(g, x):
        for action in actions:
            x = action(g, x)
        return x

    return act


class segmented(NamedTuple):
    """Marks a leaf whose leading axis runs over rows (atoms, edges) of all examples, as in a padded graph.

    Each row is acted on by the element of the example that `segments` assigns it to; `name` picks an entry where
    `segments` is a dict (nodes and edges).
    """

    action: Action
    name: str | None = None

    def rows(self, segments: Segments) -> Int[Array, " rows"]:
        """The example of each row. Raises ValueError if `segments` lacks them."""
        ids = segments.get(self.name) if isinstance(segments, Mapping) else segments
        if ids is None:
            wanted = f"segments={{{self.name!r}: ...}}" if self.name else "segments=..."
            raise ValueError(f"a segmented action needs {wanted}: the example index of each row")
        return ids


# --- applying actions to a batch -------------------------------------------------------------------------------


def apply(
    actions: Any, g: Element, x: Any, *, segments: Segments = None, shared: bool = False, what: str = "input"
) -> Any:
    """Act on a batch: `g` holds one element per example (leading axis), or one for all when `shared`.

    `actions` is an action or a pytree of actions that is a prefix of `x`; all leaves but the trivial ones have the
    examples (or, for `segmented` ones, the rows) as their leading axis.

    Raises ValueError naming the leaf for a wrong leading axis, TypeError where `actions` does not match `x`.
    """
    n_examples = None if shared else jax.tree.leaves(g)[0].shape[0]

    def one(path, action, leaf):
        if action is trivial:
            return leaf
        elements = g
        if isinstance(action, segmented):
            rows = action.rows(segments)
            expected, action = rows.shape[0], action.action
            if action is trivial:
                return leaf
            if not shared:
                elements = jax.tree.map(lambda a: a[rows], g)
        else:
            expected = n_examples
        leaf = jnp.asarray(leaf)
        if leaf.ndim == 0 or expected not in (None, leaf.shape[0]):
            raise ValueError(
                f"{what}{jax.tree_util.keystr(path)} has shape {list(leaf.shape)} but should start with an axis of "
                f"{expected} ({'rows' if isinstance(action, segmented) else 'examples'}); mark a leaf that the "
                "group does not act on as trivial"
            )
        return jax.vmap(action, in_axes=(None if shared else 0, 0))(elements, leaf)

    return map_prefix(one, actions, x, what)


def map_prefix(function: Callable, actions: Any, x: Any, what: str) -> Any:
    """`function(path, action, leaf)` over the leaves of x, each with its action from the prefix tree `actions`."""

    def is_action(a):
        return callable(a) or isinstance(a, segmented)

    pairs, structure = jax.tree_util.tree_flatten_with_path(actions, is_leaf=is_action)
    for path, action in pairs:
        if not is_action(action):
            raise TypeError(
                f"the action of {what}{jax.tree_util.keystr(path)} is {action!r}; it must be a function "
                "(g, x) -> x, such as vectors, grid or trivial"
            )
    try:
        parts = structure.flatten_up_to(x)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"the actions on the {what} must match it leaf by leaf, or be a prefix of it: actions {structure}, "
            f"{what} {jax.tree.structure(x)}"
        ) from error

    def over(pair, part):
        path, action = pair
        return jax.tree_util.tree_map_with_path(lambda rest, leaf: function(path + rest, action, leaf), part)

    return structure.unflatten(map(over, pairs, parts))
