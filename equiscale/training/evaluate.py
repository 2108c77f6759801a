"""The validation measurements of a task, spread over all devices: examples first, then group elements."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from equiscale.decomposition import Decomposition
from equiscale.gradients import Gradients
from equiscale.tasks.task import Score, Task, first_of
from equiscale.training.devices import evaluation_mesh, everywhere, spread_examples
from equiscale.training.shared_program import jit_without_keys


def make_evaluate(task: Task, mesh: Mesh) -> Callable[[Any], Decomposition]:
    """params -> the decomposition over all validation batches, to rounding the same on any number of devices.

    It has its examples' rows, on the host, in the order of the batches.
    """

    def measure(params, batch, **axes):
        d = task.evaluate(params, batch, per_example=True, **axes)
        return dataclasses.replace(d, per_example=None), d.per_example

    run, place, place_params = _spread(measure, task.validation[0], mesh)
    batches = [place(batch) for batch in task.validation]

    def evaluate(params):
        params = place_params(params)
        found = [run(params, batch) for batch in batches]
        parts = [dataclasses.replace(d, per_example=jax.device_get(rows)) for d, rows in found]
        return functools.reduce(operator.add, parts)

    return evaluate


def make_gradients(task: Task, n_examples: int, mesh: Mesh) -> Callable[[Any], Gradients]:
    """params -> gradients of the components on the first validation examples."""
    few = first_of(task.validation[0], n_examples)
    run, place, place_params = _spread(lambda *given, **axes: (task.gradients(*given, **axes), None), few, mesh)
    few = place(few)
    return lambda params: run(place_params(params), few)[0]


def make_score(task: Task, score: Score, mesh: Mesh) -> Callable[[Any], Mapping[str, Any]]:
    """params -> the record of one of the task's scores."""

    def found(params, batch):
        return score.measure(params, spread_examples(batch, mesh))

    run = jit_without_keys(found, out_shardings=NamedSharding(mesh, P()))
    batches = [everywhere(batch, mesh) for batch in task.validation]

    def measure(params):
        params = everywhere(params, mesh)
        return score.record([jax.device_get(run(params, batch)) for batch in batches])

    return measure


def _spread(measure: Callable, batch: Any, mesh: Mesh) -> tuple[Callable, Callable, Callable]:
    """`measure(params, batch) -> (sums, rows)` on all devices, and what puts a batch and parameters there.

    `sums` are of all examples of the batch, `rows` one an example.
    """
    if mesh.size == 1:
        return jit_without_keys(measure), lambda batch: batch, lambda params: params
    axes = evaluation_mesh(mesh, len(jax.tree.leaves(batch)[0]))

    def on_device(params, batch):
        return measure(params, batch, axis_name="data", element_axis="element")

    mapped = jax.shard_map(on_device, mesh=axes, in_specs=(P(), P("data")), out_specs=(P(), P("data")))
    run = jit_without_keys(mapped, out_shardings=NamedSharding(axes, P()))  # rows, too, are known to every process

    def place(batch):
        return jax.device_put(batch, NamedSharding(axes, P("data")))

    return run, place, lambda params: everywhere(params, axes)
