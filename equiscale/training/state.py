"""The training state: all that a run needs to go on, as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from equiscale.tasks.task import Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """`step` counts batches seen; the random numbers of a step follow from the seed and it.

    `ema` holds averaged parameters, or {} where none are kept; `skipped` counts updates left out as not finite.
    """

    step: Int[Array, ""]
    params: Any
    ema: Any
    opt_state: Any
    skipped: Int[Array, ""]


def init_state(task: Task, optimizer: optax.GradientTransformation, key: PRNGKeyArray, *, ema: bool) -> TrainState:
    """Untrained parameters at step 0, which their average starts from too."""
    params = task.init(key)
    zero = jnp.zeros((), int)
    return TrainState(zero, params, jax.tree.map(jnp.copy, params) if ema else {}, optimizer.init(params), zero)


def n_parameters(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
