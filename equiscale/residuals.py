"""What a function's backward pass needs kept: bytes, from the traced program alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex


def residual_bytes(loss: Callable[..., Any], *args: Any) -> int:
    """Bytes that `loss(*args)`, a function of arrays or shapes, leaves behind for its gradient by the first argument.

    Arguments themselves are not counted. A compiler joins operations and keeps less, so this is an upper bound.
    """

    def backward(*args):
        return jax.vjp(lambda first: loss(first, *args[1:]), args[0])[1]

    jaxpr = jax.make_jaxpr(backward)(*args).jaxpr
    kept = {v for v in jaxpr.outvars if isinstance(v, jex.Var)} - set(jaxpr.invars)
    return sum(v.aval.size * v.aval.dtype.itemsize for v in kept)
