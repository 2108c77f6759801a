"""What differs between devices inside `jax.shard_map`, which wants it said; outside, nothing here does anything."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def varying_zero(tree: Any) -> Array:
    """A 0 that varies over exactly the device axes that `tree` varies over (whatever its values, NaN included)."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.core.Tracer) and leaf.size]
    false = sum((jnp.ravel(leaf)[0] != jnp.ravel(leaf)[0]) & False for leaf in leaves)
    return jnp.asarray(false, jnp.float32)


def vary_alike(*arrays: Array) -> list[Array]:
    """Inside `shard_map`, marks each operand as varying over every mesh axis that one of them varies over."""
    varying = [jax.typeof(a).manual_axis_type.varying for a in arrays]
    missing = [tuple(sorted(frozenset().union(*varying) - axes)) for axes in varying]
    return [jax.lax.pcast(a, m, to="varying") for a, m in zip(arrays, missing, strict=True)]
