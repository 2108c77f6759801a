"""What can be refused before a number is made: actions that are none, shapes that do not meet, values not finite.

Checks on actions run at trace time on random numbers, so they hold under `jit` too. Checks on values run where
values are known: on a plain call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from equiscale import actions
from equiscale.actions import Segments
from equiscale.twirl import Symmetry

TOLERANCE = 1e-3  # far above float32 rounding, far below what any map that is no action shows


def check_symmetry(
    sym: Symmetry, prediction: Any, target: Any, loss: Callable[[Any, Any], Any], segments: Segments = None
) -> None:
    """Refuse output actions that do not undo themselves, or under which the loss changes.

    Eqs. 1 and 5 rest on g^-1 (g z) = z and l(g z, g y) = l(z, y). Both are tried on random numbers of the given
    shapes (two examples, unless rows are segmented) with a few elements of the measure. `loss(prediction, target)`
    gives numbers to compare.

    Raises ValueError naming the action, the size of the defect and the fix.
    """
    if not sym.checked or sym.act_out is actions.trivial:
        return
    rng = np.random.default_rng(0)

    def random(leaf):
        shape = leaf.shape if segments is not None else (min(2, leaf.shape[0]), *leaf.shape[1:])
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(shape, leaf.dtype)
        return jnp.asarray(rng.standard_normal(shape), jnp.promote_types(leaf.dtype, jnp.float32))

    with jax.ensure_compile_time_eval():
        z, y = jax.tree.map(random, prediction), jax.tree.map(random, target)
        elements = sym.measure.draw(jax.random.key(0))
        before = loss(z, y)
        for unit, element in {
            (0, sym.measure.unit_size - 1),
            (sym.measure.n_units - 1, sym.measure.unit_size // 2),
        }:
            g = jax.tree.map(lambda a, u=unit, e=element: a[u, e], elements)

            def act(acts, g, x):
                return actions.apply(acts, g, x, segments=segments, shared=True, what="output")

            turned = act(sym.act_out, g, z)
            back = act(sym.act_out, sym.measure.group.inverse(g), turned)
            defect = _relative(back, z)
            if not defect < TOLERANCE:
                raise ValueError(
                    f"act_out is not an action of {sym.measure.group.name}: acting by g and then by g^-1 changes a "
                    f"random prediction by {defect:.1e} of its size. In a product or chain the factors must commute. "
                    "If the action is meant to be lossy (interpolation), pass Symmetry(..., checked=False)"
                )
            after = loss(turned, act(sym.act_target, g, y))
            defect = float(jnp.abs(after - before).max() / jnp.maximum(jnp.abs(before).max(), 1e-30))
            if not defect < TOLERANCE:
                raise ValueError(
                    f"the loss changes by {defect:.1e} under act_out: it is not invariant under "
                    f"{sym.measure.group.name} (squared error needs an orthogonal action), so l(g^-1 f(g x), y) is "
                    "not the loss of f. Use an invariant loss or an orthogonal action, or pass "
                    "Symmetry(..., checked=False) for the pulled-back loss"
                )


@jax.jit
def squared_distance(a: Any, b: Any) -> Any:
    """|a - b|^2 over all leaves and examples together."""
    return sum(jnp.square(x - y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _relative(a: Any, b: Any) -> float:
    """|a - b| / |b| over floating leaves."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    floats = [(x, y) for x, y in pairs if jnp.issubdtype(y.dtype, jnp.floating)]
    a, b = [x for x, _ in floats], [y for _, y in floats]
    over, under = float(squared_distance(a, b)), float(squared_distance(b, [0.0] * len(b)))
    return (over / max(under, 1e-30)) ** 0.5


def check_same_shapes(prediction: Any, target: Any) -> None:
    """Refuse predictions that do not meet the target leaf by leaf (broadcasting would hide a wrong axis)."""
    if jax.tree.structure(prediction) != jax.tree.structure(target):
        raise ValueError(f"f returned {jax.tree.structure(prediction)} but the target is {jax.tree.structure(target)}")
    for (path, p), t in zip(jax.tree_util.tree_leaves_with_path(prediction), jax.tree.leaves(target), strict=True):
        if p.shape != t.shape:
            raise ValueError(
                f"f returned shape {list(p.shape)}{_at(path)} but the target has {list(t.shape)}; squared error "
                "needs them equal"
            )


def check_finite(tree: Any, what: str, mask: list[Any] | None = None) -> None:
    """Refuse NaN and infinity where values are known, naming the leaf, the count and the first place.

    Entries that `mask` (one array per leaf) switches off may hold anything.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), kept in zip(leaves, mask or [True] * len(leaves), strict=True):
        if not is_known(leaf) or not is_known(kept) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        with jax.ensure_compile_time_eval():  # a constant of a traced function is known too
            if _any_bad(leaf, kept):
                bad = ~jnp.isfinite(leaf) & (jnp.asarray(kept) != 0)
                raise ValueError(
                    f"{what}{_at(path)} holds {int(bad.sum())} values that are NaN or infinite, the first at index "
                    f"{[int(i) for i in jnp.argwhere(bad)[0]]}"
                )


@jax.jit
def _any_bad(leaf: Any, kept: Any) -> jax.Array:
    return jnp.any(~jnp.isfinite(leaf) & (jnp.asarray(kept) != 0))


def is_known(leaf: Any) -> bool:
    """Whether a leaf's values can be looked at: neither traced nor on another process."""
    return not isinstance(leaf, jax.core.Tracer) and getattr(leaf, "is_fully_addressable", True)


def _at(path) -> str:
    return f" at {jax.tree_util.keystr(path)}" if path else ""
