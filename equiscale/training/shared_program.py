"""Programs that runs of all seeds share: the random keys that a function closes over become arguments.

`jax.jit` writes what a function closes over into the program as constants, so that another seed is another program to
compile. A task's measurements close over the keys of their noise and group elements. Keys that a jitted function within
closes over stay constants.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes


def jit_without_keys(f: Callable, **settings: Any) -> Callable:
    """`jax.jit(f, **settings)` of a function of arrays, the same but for where its keys are kept."""
    programs = {}

    def run(*args):
        leaves, structure = jax.tree.flatten(args)
        shapes = structure, tuple(jax.typeof(leaf) for leaf in leaves)
        if shapes not in programs:
            keyed, keys = keys_apart(f, *args)
            programs[shapes] = jax.jit(keyed, **settings), keys
        program, keys = programs[shapes]
        return program(keys, *args)

    return run


def keys_apart(f: Callable, *args: Any) -> tuple[Callable, list[np.ndarray]]:
    """`(keys, *args) -> f(*args)` for arguments of the same shapes, and the keys, as their data.

    Keys themselves cannot be placed on the devices of several processes.
    """
    traced, out = jax.make_jaxpr(f, return_shape=True)(*args)
    constants = traced.consts
    at = [i for i, c in enumerate(constants) if jnp.issubdtype(c.dtype, dtypes.prng_key)]
    kinds = [jax.random.key_impl(constants[i]) for i in at]

    def keyed(keys, *args):
        known = list(constants)
        for i, key, kind in zip(at, keys, kinds, strict=True):
            known[i] = jax.random.wrap_key_data(key, impl=kind)
        found = jax.core.eval_jaxpr(traced.jaxpr, known, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), found)

    return keyed, [np.asarray(jax.random.key_data(constants[i])) for i in at]
