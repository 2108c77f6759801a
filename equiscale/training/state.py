"""The training state: all that a run needs to go on, as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from equiscale.parameters import group_names
from equiscale.tasks.task import Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """`step` counts batches seen; the random numbers of a step follow from the seed and it.

    `ema` holds averaged parameters, or {} where none are kept; `skipped` counts updates left out as not finite;
    `recent` is the sum of training losses since the last evaluation, and how many.
    """

    step: Int[Array, ""]
    params: Any
    ema: Any
    opt_state: Any
    skipped: Int[Array, ""]
    recent: Float[Array, " 2"]

    @property
    def recent_loss(self) -> float | None:
        """The mean training loss since the last evaluation, without skipped steps; None if there was none."""
        total, count = map(float, self.recent)
        return total / count if count else None


def init_state(task: Task, optimizer: optax.GradientTransformation, key: PRNGKeyArray, *, ema: bool) -> TrainState:
    """Untrained parameters at step 0, which their average starts from too."""
    params = task.init(key)
    zero = jnp.zeros((), int)
    average = jax.tree.map(jnp.copy, params) if ema else {}
    return TrainState(zero, params, average, optimizer.init(params), zero, jnp.zeros(2))


def parameter_table(params: Any) -> str:
    """Parameters by group (the first key of their path), one a line, and their sum."""
    sizes: dict[str, int] = {}
    for name, leaf in zip(group_names(params), jax.tree.leaves(params), strict=True):
        sizes[name] = sizes.get(name, 0) + leaf.size
    lines = [f"{size:>12,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>12,}  parameters"])


def n_parameters(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
