"""The loss decomposition: how much of a model's loss comes only from imperfect symmetry.

    total = mean + equiv        Proposition 1 of the training-dynamics paper; Eqs. 5-8

    total = E_g |g^-1 f(g x) - y|^2 / D      the loss under random group elements, Eq. 5
    mean  = |mu(x) - y|^2 / D                the loss of the twirled model,         Eq. 6
    equiv = E_g |g^-1 f(g x) - mu(x)|^2 / D  the rest: the equivariance error,      Eq. 7

For any other convex loss l, mean = l(mu(x), y) and equiv = total - mean (Eq. 9).

One streamed pass over the group elements gives all of it, per example; examples are then merged as moments
(`equiscale.reduce`), so that every ratio has a standard error and batches, devices and processes add up exactly.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from equiscale import actions, checks
from equiscale.actions import Segments
from equiscale.average import average_over_group
from equiscale.decomposition import EXAMPLE_VALUES, SQUARED_ERROR, VALUES, Decomposition
from equiscale.losses import Loss, mask_leaves, square_norm
from equiscale.measures import Measure
from equiscale.reduce import AxisName, Moments, by_cluster
from equiscale.twirl import (
    Model,
    Symmetry,
    act_out,
    auto_chunk,
    draw_elements,
    global_ids,
    twist,
)
from equiscale.varying import varying_zero


def decompose(
    f: Model,
    sym: Symmetry,
    x: Any,
    y: Any,
    *,
    key: PRNGKeyArray,
    plug_in: bool = False,
    loss: Loss | None = None,
    mask: Any = None,
    weight: Float[Array, " batch"] | None = None,
    clusters: Int[Array, " batch"] | None = None,
    segments: Segments = None,
    example_ids: Int[Array, " batch"] | None = None,
    irreducible: float | Float[Array, " batch"] | None = None,
    irreducible_from: str | None = None,
    reference: Model | str | None = None,
    per_example: bool = False,
    chunk: int | None = None,
    axis_name: AxisName = None,
    element_axis: AxisName = None,
) -> Decomposition:
    """Decompose the loss of `f` on one batch into the twirled model's loss and equivariance error.

    Args:
      f: a function of the whole batch x (a model's apply with its parameters bound).
      sym: the measure and the actions on input, output and target.
      x, y: pytrees whose acted-on leaves start with the batch axis, or with rows where `segmented`.
      key: fixes the group elements; deterministic measures ignore it.
      plug_in: report the biased plug-in numbers (what the papers print) instead of the unbiased ones.
      loss: any convex loss instead of squared error.
      mask: components of y that count, `[batch, ...]` with leading axes of y (squared error only).
      weight: weight of each example; 0 for padding. Needed where all of y is segmented.
      clusters: ids in 0..batch-1 of examples that are not independent (conformers of one molecule): the unit of the
        standard error. Clusters must not straddle batches or devices.
      segments: for padded graphs, the example of each row (a dict of them for several kinds of row).
      example_ids: what each example's elements are drawn from besides the key (default: position in the batch).
      irreducible, irreducible_from: the loss no model can remove, and where that number is from ("teacher", ...).
      reference: f at higher precision, or "highest" to re-trace f at the highest matrix precision: their difference
        on the untwisted batch is added to the floor (TF32, bf16). Costs two more forward passes.
      per_example: keep the per-example rows.
      chunk: elements evaluated at once; None chooses by size and backend.
      axis_name, element_axis: mapped device axes (pmap, shard_map) that carry examples and group elements.

    Raises ValueError for one independent element, shapes that do not meet, an action that is none or under which
    the loss changes; on a plain call also for values that are not finite and for an empty mask.
    """
    measure = sym.measure
    if measure.n_elements == 1 and not measure.deterministic:
        raise ValueError(
            f"{measure} is a single random element (K = 1), whose spread cannot be estimated; use haar(2) or more, "
            "or coset(12)"
        )
    if (irreducible is None) != (irreducible_from is None):
        raise ValueError("irreducible and irreducible_from come together: a denominator needs its name")
    if loss is not None and mask is not None:
        raise ValueError(f"the mask applies to squared error; apply it inside the loss {loss.name!r} instead")
    x, y = jax.tree.map(jnp.asarray, (x, y))
    n = count_rows(sym, y, weight)
    checks.check_finite(x, "the input")
    checks.check_finite(y, "the target", mask_leaves(mask, y))

    square, components = square_norm(sym.act_target, y, n, mask=mask, segments=segments)
    error = loss.value if loss is not None else lambda z, y: square(jax.tree.map(jnp.subtract, z, y))
    twisted = twist(f, sym, segments=segments)
    act, undo = act_out(sym, segments), act_out(sym, segments, inverse=True)

    def apart(a, b):  # what a difference between two versions of a prediction adds to the equivariance loss
        if loss is None:
            return square(jax.tree.map(jnp.subtract, a, b))
        return jnp.abs(error(a, y) - error(b, y))

    def evaluate(g):
        z = twisted(g, x)
        check_prediction(sym, z, y, loss, error, n, segments)
        digit = _last_digit(z)
        rounding = digit**2 * square(z) if loss is None else digit * jnp.abs(error(z, y))
        return z, {"total": error(z, y), "floor": apart(undo(g, act(g, z)), z) + rounding}

    elements, weights = draw_elements(measure, key, global_ids(example_ids, n, axis_name))
    average = functools.partial(
        average_over_group,
        evaluate,
        weights=weights,
        chunk=chunk or auto_chunk(measure, n, x),
        square=square if loss is None else lambda tree: jnp.zeros(()),
        element_axis=element_axis,
        varying=varying_zero((x, y, elements)),
    )
    estimate = _squared if loss is None else _convex
    values = estimate(average, elements, measure, lambda z: error(z, y), square, plug_in)
    if reference is not None:
        values["floor"] += apart(_at_reference(f, reference, x), f(x))

    weight = jnp.ones(n) if weight is None else jnp.asarray(weight, float)
    if loss is None:
        weight = jnp.where(components > 0, weight, 0)  # nothing left of a fully masked example
    values["weight"] = jnp.ones(n)
    values["irreducible"] = jnp.zeros(n) if irreducible is None else jnp.broadcast_to(irreducible, (n,))
    rows = jnp.stack([weight * values[name] for name in VALUES], axis=-1)
    moments = Moments.of(*by_cluster(rows, weight > 0, clusters)).psum(axis_name)
    result = Decomposition(
        moments,
        {"weight": weight} | {name: values[name] for name in EXAMPLE_VALUES} if per_example else None,
        measure=measure.name,
        estimator=estimator_name(measure, plug_in, loss),
        loss=SQUARED_ERROR if loss is None else loss.name,
        space="prediction" if loss is None else loss.space,
        irreducible_from=irreducible_from,
    )
    if checks.is_known(moments.mean):
        _check_predictions_finite(values["total"], weight)
        result.check()
    return result


# --- estimators: values per example, metrics of sections 2, 3 and 5 ---------------------------------------------


def _squared(average, elements, measure, error, square, plug_in) -> dict[str, Array]:
    """Squared error: the spread between M independent units corrects mean and equiv by Var(unit mean) / M.

    For independent draws this is equiv = K/(K-1) plug-in; for cosets it leaves the spread inside a coset alone; a
    single unit has nothing to correct with.
    """
    mean, between, extras = average(elements=elements)
    correction = 0.0
    if measure.n_units > 1 and not plug_in:
        correction = between / (measure.n_units - 1)
    return {
        "total": extras["total"],
        "mean": error(mean) - correction,
        "equiv": extras["within"] + between + correction,
        "signal": square(mean) - correction,
        "floor": extras["floor"],
    }


def _convex(average, elements, measure, error, square, plug_in) -> dict[str, Array]:
    """Any convex loss, Eq. 9: l(zbar) with its finite-sample bias removed by a jackknife over groups of units.

    G l(zbar) - (G - 1) mean_a l(zbar without group a). Groups (at most 8 where that divides the units), not units,
    so that memory does not grow with the number of elements.
    """
    groups = 1 if plug_in else _jackknife_groups(measure.n_units)
    split = jax.tree.map(lambda a: a.reshape(groups, -1, *a.shape[1:]), elements)
    means, _, extras = jax.lax.map(lambda g: average(elements=g), split)
    extras = jax.tree.map(lambda e: e.mean(0), extras)
    overall = jax.tree.map(lambda m: m.mean(0), means)
    mean = error(overall)
    if groups > 1:

        def without(group):
            return error(jax.tree.map(lambda a, c: (groups * a - c) / (groups - 1), overall, group))

        mean = groups * mean - (groups - 1) * jax.lax.map(without, means).mean(0)
    return {
        "total": extras["total"],
        "mean": mean,
        "equiv": extras["total"] - mean,
        "signal": jnp.zeros_like(mean),
        "floor": extras["floor"],
    }


def _jackknife_groups(n_units: int) -> int:
    divisors = [d for d in range(2, 9) if n_units % d == 0]
    return max(divisors) if divisors else n_units


def estimator_name(measure: Measure, plug_in: bool, loss: Loss | None) -> str:
    if measure.deterministic:
        return "exact over the measure"
    if plug_in:
        return "plug-in"
    if measure.n_units == 1:
        return "one coset, biased by -Var(coset mean)"
    return "unbiased" if loss is None else "jackknife"


# --- floors ----------------------------------------------------------------------------------------------------


def _last_digit(z: Any) -> float:
    """Unit roundoff of the coarsest floating leaf of a prediction."""
    floats = [leaf.dtype for leaf in jax.tree.leaves(z) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return max((float(jnp.finfo(dtype).eps) for dtype in floats), default=0.0)


def _at_reference(f: Model, reference: Model | str, x):
    if reference != "highest":
        return reference(x)
    with jax.default_matmul_precision("highest"):
        return f(x)


# --- checks ----------------------------------------------------------------------------------------------------


def count_rows(sym: Symmetry, y: Any, weight: Any) -> int:
    """Examples in the batch: one weight each, or the leading axis of a target leaf that is not segmented."""
    if weight is not None:
        return len(weight)
    sizes: list[int] = []
    actions.map_prefix(
        lambda path, action, leaf: sizes.extend(
            () if isinstance(action, actions.segmented) or not leaf.ndim else leaf.shape[:1]
        ),
        sym.act_target,
        y,
        "target",
    )
    if not sizes:
        raise ValueError("how many examples? all of the target is segmented: pass weight=[n_graphs], 0 for padding")
    return sizes[0]


def check_prediction(sym: Symmetry, z, y, loss: Loss | None, error, n: int, segments: Segments) -> None:
    """Shapes and the symmetry itself, at trace time."""
    if loss is None:
        checks.check_same_shapes(z, y)
        checks.check_symmetry(sym, z, y, checks.squared_distance, segments)
        return
    shape = jax.eval_shape(error, z, y).shape
    if shape != (n,):
        raise ValueError(f"loss {loss.name!r} must return one value per example, [{n}], got shape {list(shape)}")
    checks.check_symmetry(sym, z, y, loss.value, segments)


def _check_predictions_finite(total: Array, weight: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(total) & (np.asarray(weight) > 0))
    if bad.size:
        raise ValueError(
            f"f returned NaN or infinity (or its loss overflows) for {bad.size} of {total.size} examples, the first "
            f"at index {int(bad[0])}; the input and target are finite"
        )
