"""Measures: named ways to draw the group elements that one example is averaged over."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from equiscale.groups import Group

Element = Any  # a pytree of arrays: a matrix, an index array, a shift, or a tuple of these


@dataclasses.dataclass(frozen=True)
class Measure:
    """A named way to draw elements of `group` for one example.

    `draw(key)` gives a pytree of arrays `[n_units, unit_size, ...]`; `weights` are those of the elements inside a
    unit (None: all equal), units weigh the same. `deterministic` measures ignore the key and give every example the
    same elements.
    """

    name: str
    group: "Group" = dataclasses.field(compare=False, repr=False)
    n_units: int
    unit_size: int
    draw: Callable[[jax.Array], Element] = dataclasses.field(compare=False, repr=False)
    weights: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)
    deterministic: bool = False

    @property
    def n_elements(self) -> int:
        """Evaluations of the model for one example."""
        return self.n_units * self.unit_size

    def __str__(self) -> str:
        return self.name


def independent(group: "Group", name: str, random: Callable, n: int) -> Measure:
    """`n` independent draws by `random(key)`: each is a unit of its own."""
    return Measure(name, group, n_units=n, unit_size=1, draw=functools.partial(_draw, random, n))


# Draws are one program each: a plain call would compile every operation of theirs on its own.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(random: Callable, n: int, key: jax.Array) -> Any:
    return jax.tree.map(lambda a: a[:, None], jax.vmap(random)(jax.random.split(key, n)))


def listed(group: "Group", name: str, elements: np.ndarray, weights: np.ndarray | None = None) -> Measure:
    """Given elements `[n, ...]` with given weights (sum 1; None: equal), the same for every example."""
    return Measure(
        name,
        group,
        n_units=1,
        unit_size=len(elements),
        draw=lambda key: to_device(elements)[None],
        weights=weights,
        deterministic=True,
    )


def to_device(a: np.ndarray) -> jax.Array:
    """A host table in JAX's default precision."""
    kind = float if np.issubdtype(a.dtype, np.floating) else int
    return jnp.asarray(a, jax.dtypes.canonicalize_dtype(kind))


def check_count(n: int, name: str) -> None:
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}")
