"""How well named properties are predicted: by the model, and by the model averaged over a group (its twirl).

Of each example, over the group's elements g, with z(g) = g^-1 f(g x):

    total         E_g |z(g) - y|^2       the squared error of one prediction
    mean          |E_g z(g) - y|^2       that of the prediction averaged over g: test-time averaging
    distance      E_g |z(g) - y|         the same two without squares
    mean_distance |E_g z(g) - y|
    as_is         |f(x) - y|^2           of the input as it lies
    y, square     y, |y|^2               what R^2 is relative to

Examples are merged as moments, so batches and devices add up. With a measure of K random elements the average is over
those K, which is what averaging over K rotations at test time gives.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from equiscale.average import average_over_group
from equiscale.reduce import AxisName, Moments
from equiscale.tasks.task import Pair, Score
from equiscale.twirl import Symmetry, auto_chunk, draw_elements, global_ids, twist
from equiscale.varying import varying_zero

VALUES = ("weight", "total", "mean", "distance", "mean_distance", "as_is", "y", "square")  # each times weight


class Property(NamedTuple):
    """One of the quantities that a task predicts: a scalar, or a vector or tensor that turns with the input.

    `of` takes a prediction or target to its part `[batch, d]`, d being 1, 3 or 9, and `scale` times that has the
    `unit`.
    """

    name: str
    unit: str
    kind: Literal["scalar", "vector", "tensor"]
    scale: float
    of: Callable[[Any], Float[Array, "batch d"]]


def property_moments(
    f: Callable[[Any], Any],
    sym: Symmetry,
    x: Any,
    y: Any,
    properties: Sequence[Property],
    *,
    key: PRNGKeyArray,
    weight: Float[Array, " batch"],
    axis_name: AxisName = None,
    element_axis: AxisName = None,
) -> Moments:
    """The moments of `VALUES`, property after property, over the examples of a batch; those of batches add up.

    Arguments as of `decompose`.
    """
    n = len(weight)
    twisted = twist(f, sym)
    elements, weights = draw_elements(sym.measure, key, global_ids(None, n, axis_name))

    def squares(z) -> Float[Array, "batch properties"]:
        return jnp.stack([jnp.square(p.of(z) - p.of(y)).sum(-1) for p in properties], axis=-1)

    def evaluate(g):
        z = twisted(g, x)
        total = squares(z)
        return z, {"total": total, "distance": jnp.sqrt(total)}

    average = average_over_group(
        evaluate,
        elements,
        weights,
        chunk=auto_chunk(sym.measure, n, x),
        square=lambda tree: jnp.zeros(()),
        element_axis=element_axis,
        varying=varying_zero((x, y, elements)),
    )
    of_mean = squares(average.mean)
    values = average.extras | {
        "weight": jnp.ones_like(of_mean),
        "mean": of_mean,
        "mean_distance": jnp.sqrt(of_mean),
        "as_is": squares(f(x)),
        "y": jnp.stack([p.of(y)[:, 0] if p.kind == "scalar" else jnp.zeros(n) for p in properties], axis=-1),
        "square": jnp.stack([jnp.square(p.of(y)).sum(-1) for p in properties], axis=-1),
    }
    rows = weight[:, None, None] * jnp.stack([values[name] for name in VALUES], axis=-1)
    return Moments.of(rows.reshape(n, -1), weight > 0).psum(axis_name)


def property_score(
    predict: Callable[[Any, Any], Any],
    pair: Callable[[Any], Pair],
    sym: Symmetry,
    properties: Sequence[Property],
    key: PRNGKeyArray,
) -> Score:
    """The score "properties" of a task that predicts some; arguments are the task's own."""

    def measure(params, batch):
        x, y, weight, *_ = pair(batch)
        return property_moments(lambda x: predict(params, x), sym, x, y, properties, key=key, weight=weight)

    return Score(measure, lambda batches: property_record(functools.reduce(operator.add, batches), properties))


def property_record(moments: Moments, properties: Sequence[Property]) -> dict[str, dict[str, Any]]:
    """By name of the property, plain numbers for one row of a metrics file.

    R^2 = 1 - squared error / variance over these examples; of vectors and traceless tensors the variance is E |y|^2,
    since in all orientations their mean is 0. `r2` is that of single predictions over all elements, `r2_averaged` of
    their average, `r2_gain` the difference, `r2_as_is` of the inputs as they lie; `mae` and `mae_averaged` are mean
    distances in the property's unit, `percent` is 100 (total - mean) / total. Each has a standard error over examples,
    `..._stderr`, by the delta method.
    """
    values, stderrs = (np.asarray(a, float) for a in _statistics(moments))
    found = {}
    for p, value, stderr in zip(properties, values, stderrs, strict=True):
        row: dict[str, Any] = {"unit": p.unit}
        for name, at, error in zip(STATISTICS, value, stderr, strict=True):
            unit = p.scale if name.startswith("mae") else 1.0
            row |= {name: unit * at.item(), f"{name}_stderr": unit * error.item()}
        found[p.name] = row
    return found


@jax.jit
def _statistics(moments: Moments) -> tuple[Float[Array, "properties k"], Float[Array, "properties k"]]:
    """Each of `STATISTICS` and its standard error, of each property."""
    n = len(VALUES)
    count = moments.count

    def of_all(mean):
        return jnp.stack([value(dict(zip(VALUES, mean, strict=True))) for value in STATISTICS.values()])

    def one(mean, comoment):
        slopes = jax.jacfwd(of_all)(mean)
        variance = jnp.einsum("kv,vw,kw->k", slopes, comoment, slopes, precision="highest") / (count - 1)
        return of_all(mean), jnp.where(count > 1, jnp.sqrt(variance / count), jnp.nan)

    blocks = moments.comoment.reshape(-1, n, moments.comoment.shape[0] // n, n)
    return jax.vmap(one)(moments.mean.reshape(-1, n), jnp.einsum("pvpw->pvw", blocks))


def _r2(error: str) -> Callable[[Mapping[str, Array]], Array]:
    def value(m):
        return 1 - m[error] / (m["square"] - jnp.square(m["y"]) / m["weight"])

    return value


STATISTICS: dict[str, Callable[[Mapping[str, Array]], Array]] = {
    "r2": _r2("total"),
    "r2_averaged": _r2("mean"),
    "r2_gain": lambda m: _r2("mean")(m) - _r2("total")(m),
    "r2_as_is": _r2("as_is"),
    "mae": lambda m: m["distance"] / m["weight"],
    "mae_averaged": lambda m: m["mean_distance"] / m["weight"],
    "percent": lambda m: 100 * (m["total"] - m["mean"]) / m["total"],
}
