"""Parameters by name: pick some of a model's by path pattern, put changed ones back.

A path is the keys to a leaf joined by "/", e.g. "up_3/res/conv1/kernel", for dicts, dataclasses, Equinox modules and
nnx states alike. Patterns are shell-style: `head/*`, `*/bias`, `up_[01]/*`; "*" also matches "/".
"""

import difflib
import fnmatch
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Params = Any


def by_path(params: Params) -> dict[str, Any]:
    """Every leaf under its path, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def select(params: Params, *patterns: str) -> dict[str, Array]:
    """The floating-point leaves whose path matches any of the patterns.

    Raises ValueError naming the nearest paths for a pattern that matches nothing.
    """
    leaves = {path: leaf for path, leaf in by_path(params).items() if is_trainable(leaf)}
    for pattern in patterns:
        if not fnmatch.filter(leaves, pattern):
            nearest = difflib.get_close_matches(pattern, leaves, n=3, cutoff=0) or list(leaves)[:3]
            raise ValueError(f"no parameter matches {pattern!r}; the nearest of {len(leaves)}: {', '.join(nearest)}")
    return {path: leaf for path, leaf in leaves.items() if any(fnmatch.fnmatchcase(path, p) for p in patterns)}


def insert(params: Params, chosen: Mapping[str, Array]) -> Params:
    """`params` with the leaves named in `chosen` replaced.

    Raises ValueError for a path that `params` lacks or a shape that differs.
    """
    unknown = chosen.keys() - by_path(params).keys()
    if unknown:
        raise ValueError(f"these parameters have no {', '.join(sorted(unknown))}")

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in chosen:
            return leaf
        if jnp.shape(chosen[name]) != jnp.shape(leaf):
            raise ValueError(f"{name} has shape {list(jnp.shape(leaf))}, got {list(jnp.shape(chosen[name]))}")
        return chosen[name]

    return jax.tree_util.tree_map_with_path(one, params)


def is_trainable(leaf: Any) -> bool:
    """Whether a leaf can have a gradient: a floating-point array, not a counter or a random key."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def group_names(params: Params, depth: int = 1) -> list[str]:
    """For each leaf the first `depth` keys of its path: its parameter group."""
    return ["/".join(path.split("/")[:depth]) for path in by_path(params)]
