"""Averages over group elements in one streamed pass: mean, variance and side results.

A scan visits the elements `chunk` at a time and keeps a running mean and variance, merged pairwise (Chan, Golub,
LeVeque), so memory does not grow with the number of elements and no large squares are subtracted.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale.measures import Element
from equiscale.reduce import AxisName
from equiscale.rotations import HIGHEST
from equiscale.varying import varying_zero


class Average(NamedTuple):
    """Weighted mean of a pytree over elements, its variance per example, and means of per-example numbers."""

    mean: Any  # like a prediction, at float32 or better
    variance: Any  # [batch], by the square norm given; population, not sample
    extras: Any  # like what `evaluate` returned second


def average_over_group(
    evaluate: Callable[[Element], tuple[Any, Any]],
    elements: Element,
    weights: Float[np.ndarray, " unit_size"],
    *,
    chunk: int,
    square: Callable[[Any], Array],
    element_axis: AxisName = None,
    varying: Array,
) -> Average:
    """Average over units and the elements inside them, `[n_units, unit_size, ...]`.

    The variance returned is that *between* units; the one inside them is `extras["within"]`.
    """
    n_units = jax.tree.leaves(elements)[0].shape[0]
    average = functools.partial(streamed_average, square=square, varying=varying)

    def unit(g):
        mean, within, extras = average(evaluate, g, weights, chunk=chunk, axis_name=element_axis)
        return mean, {"within": within, **extras}

    def single(g):
        value, extras = evaluate(jax.tree.map(lambda a: a[0], g))
        return value, {"within": jnp.zeros_like(square(widen(value))), **extras}

    equal = np.full(n_units, 1 / n_units)
    if len(weights) > 1:
        return average(unit, elements, equal, chunk=1)
    return average(single, elements, equal, chunk=chunk, axis_name=element_axis)


def streamed_average(
    evaluate: Callable[[Element], tuple[Any, Any]],
    elements: Element,
    weights: Float[np.ndarray, " n"],
    *,
    chunk: int,
    square: Callable[[Any], Array],
    axis_name: AxisName = None,
    varying: Array,
) -> Average:
    """Average `evaluate(g) -> (value, extras)` over elements `[n, ...]`, `chunk` at a time, in one pass.

    `square(tree)` is the squared norm per example that the variance is taken in. With `axis_name` every device of
    that mapped axis evaluates its share of the elements. Mean and variance are merged pairwise (Chan, Golub,
    LeVeque), so no large squares are subtracted.
    """
    evaluate = jax.jit(evaluate)  # traced once, here and in the scan alike
    n = len(weights)
    n_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    share = -(-n // n_devices)
    chunk = min(chunk, share)
    n_chunks = -(-share // chunk)
    padding = n_devices * n_chunks * chunk - n  # evaluated with weight 0: the last element again
    weights = jnp.asarray(np.pad(weights, (0, padding)), jnp.result_type(float))
    if padding:
        elements = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], padding, 0)]), elements)
    elements, weights = jax.tree.map(lambda a: a.reshape(n_devices, n_chunks, chunk, *a.shape[1:]), (elements, weights))
    mine = 0 if axis_name is None else jax.lax.axis_index(axis_name)
    elements, weights = jax.tree.map(lambda a: a[mine], (elements, weights))

    def of_chunk(g, w) -> tuple[Array, Average]:
        if chunk == 1:
            value, extras = evaluate(jax.tree.map(lambda a: a[0], g))
            mean = widen(value)
            return w[0], Average(mean, jnp.zeros_like(square(mean)), widen(extras))
        value, extras = widen(jax.vmap(evaluate)(g))
        total = w.sum()
        share_of = w / jnp.where(total > 0, total, 1)  # a chunk of padding alone weighs nothing
        mean = _weighted_sum(share_of, value)
        spread = jax.vmap(lambda v: square(_subtract(v, mean)))(value)
        return total, Average(mean, _weighted_sum(share_of, spread), _weighted_sum(share_of, extras))

    def step(running, inputs):
        return _merge(running, of_chunk(*inputs), square), None

    if n_chunks == 1:
        running = of_chunk(*jax.tree.map(lambda a: a[0], (elements, weights)))
    else:
        first = jax.tree.map(lambda a: a[0], (elements, weights))
        varying = varying + varying_zero(first)  # under shard_map a carry must start as varied as it ends
        start = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype) + varying.astype(s.dtype),
            jax.eval_shape(lambda inputs: of_chunk(*inputs), first),
        )
        running, _ = jax.lax.scan(step, start, (elements, weights))
    return _over_devices(*running, square, axis_name)


def _merge(a: tuple[Array, Average], b: tuple[Array, Average], square) -> tuple[Array, Average]:
    (weight_a, a), (weight_b, b) = a, b
    weight = weight_a + weight_b
    share = jnp.where(weight > 0, weight_b / jnp.where(weight > 0, weight, 1), 0)
    apart = _subtract(b.mean, a.mean)
    return weight, Average(
        _move(a.mean, apart, share),
        _move(a.variance, b.variance - a.variance + _scale(1 - share, square(apart)), share),
        _move(a.extras, _subtract(b.extras, a.extras), share),
    )


def _over_devices(weight: Array, local: Average, square, axis_name: AxisName) -> Average:
    if axis_name is None:
        return local
    share = weight / jax.lax.psum(weight, axis_name)
    mean, extras = jax.lax.psum(_scale(share, (local.mean, local.extras)), axis_name)
    spread = local.variance + square(_subtract(local.mean, mean))
    return Average(mean, jax.lax.psum(_scale(share, spread), axis_name), extras)


def widen(tree: Any) -> Any:
    """Sums run in float32 or better whatever the model's dtype."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def _subtract(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.subtract, a, b)


def _scale(factor: Array, tree: Any) -> Any:
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)


def _move(start: Any, change: Any, share: Array) -> Any:
    return jax.tree.map(lambda x, d: x + share.astype(x.dtype) * d, start, change)


def _weighted_sum(weights: Array, tree: Any) -> Any:
    def one(x):
        return jnp.einsum("k,k...->...", weights.astype(x.dtype), x, precision=HIGHEST)

    return jax.tree.map(one, tree)
