"""What the training loop and the instruments need to know of a task: pure functions and arrays."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from equiscale.decomposition import Decomposition

Params = Any
Batch = Any


class Task(NamedTuple):
    """A model with its loss, data and symmetry.

    `sample(data, indices, key)` makes a training batch from rows of `train_data`; `evaluate(params, batch)`
    decomposes the loss on one of the `validation` batches, whose results add up.
    """

    name: str
    init: Callable[[PRNGKeyArray], Params]
    train_data: Any  # pytree of arrays [n_train, ...]
    sample: Callable[[Any, Array, PRNGKeyArray], Batch]
    loss: Callable[[Params, Batch, PRNGKeyArray], Float[Array, ""]]
    validation: Sequence[Batch]
    evaluate: Callable[[Params, Batch], Decomposition]
    predict: Callable[[Params, Any], Any]  # a batch of inputs -> predictions
