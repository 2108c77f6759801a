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
    """`step` counts updates made; the random numbers of a step follow from the seed and it."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def init_state(task: Task, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """Untrained parameters at step 0. Compiled as one program: un-jitted initialisation costs seconds."""

    @jax.jit
    def init(key):
        params = task.init(key)
        return TrainState(jnp.zeros((), int), params, optimizer.init(params))

    return init(key)


def n_parameters(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
