"""What the training loop and the instruments need to know of a task: pure functions and arrays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from equiscale.actions import Action
from equiscale.components import Components, components
from equiscale.decompose import decompose
from equiscale.decomposition import Decomposition
from equiscale.gradients import Gradients, gradients
from equiscale.reconstruction import Reconstruction, reconstruction
from equiscale.reduce import AxisName
from equiscale.twirl import Symmetry

Params = Any
Batch = Any
Rows = Any  # examples as a task keeps them: a pytree of arrays [n, ...]


@dataclasses.dataclass(frozen=True)
class Streamed:
    """`n` examples that are read when they are needed: `read(indices [batch]) -> pytree of NumPy arrays [batch, ...]`.

    `read` is called from several threads at once.
    """

    n: int
    read: Callable[[np.ndarray], Rows]


class Pair(NamedTuple):
    """Inputs and targets of a batch, as they are decomposed; `weight` 0 marks padding."""

    x: Any
    y: Any
    weight: Float[Array, " batch"]
    mask: Any = None  # components of y that count, as for `decompose`; None: all
    irreducible: Float[Array, " batch"] | None = None  # the loss that no model can remove, where it is known


class Latent(NamedTuple):
    """What a model makes of its inputs on the way, and how it should turn: `act` is the action on one example's.

    The first `n_scalars` channels (None: all) are mixed with no others by `act`.
    """

    encode: Callable[[Params, Any], Float[Array, "batch c ..."]]
    act: Action
    n_scalars: int | None = None


class Score(NamedTuple):
    """Numbers that mean something for one task: `measure` of each validation batch, `record` of what it found of all.

    `record` gets host arrays and gives plain numbers, for a row of the metrics file.
    """

    measure: Callable[[Params, Batch], Any]
    record: Callable[[Sequence[Any]], Mapping[str, Any]]


class Task(NamedTuple):
    """A model with its loss, data and symmetry.

    `train` holds the training examples, one set a shape bucket: arrays, which are kept on the devices, or `Streamed`.
    `sample(rows, key)` makes a training batch of some of them; `pair` makes what is measured of one of the
    `validation` batches, always the same for the same batch. Parameters whose paths match `frozen` stay as they are
    from the start. `scores` are instruments of the task's own. With `clusters`, labels of the training examples set by
    set, an epoch takes one random member of every cluster. `closed_components` stand where
    averages over the group are known without its elements.
    """

    name: str
    init: Callable[[PRNGKeyArray], Params]
    train: Sequence[Rows | Streamed]
    sample: Callable[[Rows, PRNGKeyArray], Batch]
    loss: Callable[[Params, Batch, PRNGKeyArray], Float[Array, ""]]
    validation: Sequence[Batch]
    pair: Callable[[Batch], Pair]
    predict: Callable[[Params, Any], Any]  # a batch of inputs -> predictions
    symmetry: Symmetry
    element_key: PRNGKeyArray  # of the group elements of every measurement
    irreducible_from: str | None = None  # where the irreducible loss of its pairs is from
    latent: Latent | None = None  # where the model has one that is worth a look
    frozen: str = ""
    scores: Mapping[str, Score] = MappingProxyType({})
    clusters: Sequence[np.ndarray] | None = None
    closed_components: Callable[..., Components] | None = None  # (params, x, y, *, only, mask, weight)

    def evaluate(self, params: Params, batch: Batch, **settings) -> Decomposition:
        """The decomposed loss on a validation batch; results add up. `settings` as for `decompose`."""
        pair = self.pair(batch)
        known = {"irreducible": pair.irreducible, "irreducible_from": self.irreducible_from}
        settings = {"key": self.element_key, **_counted(pair), **known, **settings}
        return decompose(lambda x: self.predict(params, x), self.symmetry, pair.x, pair.y, **settings)

    def gradients(self, params: Params, batch: Batch, **axes: AxisName) -> Gradients:
        """Gradients of the components on a validation batch (of the squared error, whatever the training loss)."""
        pair = self.pair(batch)
        settings = {"key": self.element_key, **_counted(pair), **axes}
        return gradients(self.predict, params, self.symmetry, pair.x, pair.y, **settings)

    def reconstruction(self, params: Params, batch: Batch, **settings) -> Reconstruction:
        """Eq. 4 for each element of the symmetry's measure on a validation batch; results add up."""
        pair = self.pair(batch)
        settings = {**_counted(pair), **settings}
        return reconstruction(lambda x: self.predict(params, x), self.symmetry, pair.x, pair.y, **settings)

    def components(self, params: Params, batch: Batch, **settings) -> Components:
        """The components on a validation batch as functions of chosen parameters (`only=...`).

        In closed form where they are known, over the measure's elements otherwise.
        """
        pair = self.pair(batch)
        settings = {**_counted(pair), **settings}
        if self.closed_components:
            return self.closed_components(params, pair.x, pair.y, **settings)
        return components(self.predict, params, self.symmetry, pair.x, pair.y, key=self.element_key, **settings)


def _counted(pair: Pair) -> dict[str, Any]:
    """What of a pair counts, and how much."""
    return {"weight": pair.weight, "mask": pair.mask}


def size_of(rows: Rows | Streamed) -> int:
    """How many examples there are."""
    return rows.n if isinstance(rows, Streamed) else len(jax.tree.leaves(rows)[0])


def first_of(rows: Rows | Streamed, n: int) -> Rows:
    """The first `n` examples."""
    if isinstance(rows, Streamed):
        return rows.read(np.arange(min(n, rows.n)))
    return jax.tree.map(lambda a: a[:n], rows)
