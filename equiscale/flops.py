"""Floating-point operations of a traced function: of every pass of a loop, and on any device the same.

XLA counts the body of a loop once however often it runs, so that accumulated batches, scanned blocks and attention in
parts would look cheap. Here a product of tensors costs two operations for each pair of numbers that it multiplies
(padding and the zeros of a dilated convolution are none), other arithmetic on floating-point numbers one for each of
its results, a reduction one for each number it takes in. What is recomputed in a backward pass counts again.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

# They carry numbers and compute none.
MOVES = frozenset(
    "broadcast_in_dim concatenate convert_element_type copy copy_p device_put dynamic_slice dynamic_update_slice "
    "gather iota optimization_barrier pad pvary reduce_precision reshape rev scatter select_n sharding_constraint "
    "slice sort split squeeze stop_gradient transpose".split()
)

# Of primitives that are not JAX's own, by name: the operations of an equation. Whoever makes one says what it costs.
RULES: dict[str, Callable[[jex.JaxprEqn], int]] = {}


def flops(f: Callable[..., Any], *args: Any) -> int:
    """Operations of `f(*args)`, a function of arrays or shapes; nothing is computed.

    Loops count as often as they run where that is known beforehand, as for `scan`, `map` and `fori_loop` between
    constants; a `while_loop` counts one pass. Of branches the dearest counts.
    """
    return flops_of(jax.make_jaxpr(f)(*args).jaxpr)


def flops_of(jaxpr: jex.Jaxpr) -> int:
    """Operations of a traced program, as of `jax.jit(f).trace(...).jaxpr.jaxpr`."""
    return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: jex.JaxprEqn) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name in RULES:
        return RULES[name](eqn)
    if name == "scan":
        return params["length"] * flops_of(params["jaxpr"].jaxpr)
    if name == "while":
        return flops_of(params["body_jaxpr"].jaxpr)
    if name == "cond":
        return max(flops_of(branch.jaxpr) for branch in params["branches"])
    if name == "shard_map":
        return params["mesh"].size * flops_of(params["jaxpr"])
    if inner := [value for value in params.values() if isinstance(value, (jex.Jaxpr, jex.ClosedJaxpr))]:
        # A call's body; its derivative rules are functions. That of a reduction is its operator.
        if not name.startswith(("reduce", "scatter", "cum")):
            return flops_of(getattr(inner[0], "jaxpr", inner[0]))
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name in MOVES or not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
        return 0
    if name.startswith("scatter"):  # with an operator: of each update
        return eqn.invars[2].aval.size
    taken = eqn.invars if name.startswith(("reduce", "cum", "arg")) else eqn.outvars
    return taken[0].aval.size


def _convolution(eqn: jex.JaxprEqn) -> int:
    """Two operations for each weight that meets a number of the input, not its padding or the zeros between."""
    p, (x, kernel) = eqn.params, (v.aval.shape for v in eqn.invars)
    numbers, y = p["dimension_numbers"], eqn.outvars[0].aval.shape
    pairs = 1
    for i, (low, _) in enumerate(p["padding"]):
        size, out, side = (
            shape[spec[i + 2]]
            for shape, spec in zip((x, y, kernel), (numbers.lhs_spec, numbers.out_spec, numbers.rhs_spec), strict=True)
        )
        apart = p["lhs_dilation"][i]
        at = np.arange(out)[:, None] * p["window_strides"][i] + np.arange(side) * p["rhs_dilation"][i] - low
        pairs *= int(((at >= 0) & (at <= (size - 1) * apart) & (at % apart == 0)).sum())
    images_and_features = math.prod(y[d] for d in numbers.out_spec[:2])
    return 2 * images_and_features * kernel[numbers.rhs_spec[1]] * pairs
