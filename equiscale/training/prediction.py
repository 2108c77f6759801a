"""What a run will cost before it is made: operations and memory from shapes alone, speed from a few of its steps."""

import math
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from equiscale.flops import flops
from equiscale.residuals import residual_bytes
from equiscale.tasks.task import Rows, Streamed, Task, first_of, size_of
from equiscale.training.batches import batches_per_epoch, cluster_sizes
from equiscale.training.loop import compile_program
from equiscale.training.settings import Settings, evaluation_steps, make_optimizer
from equiscale.training.state import init_state, n_parameters
from equiscale.training.update import keys_of, make_update


class Cost(NamedTuple):
    """Of a whole run, its evaluations among it, but no instruments."""

    parameters: int
    examples: int  # for training
    step_flop: float  # of a step, on average over shape buckets
    flop: float  # of all
    memory: int  # bytes, at most: examples, parameters and what is kept beside them, what a backward pass needs


def cost_of(task: Task, settings: Settings, mesh: Mesh) -> Cost:
    """Nothing is computed: shapes are traced, a step of each bucket and one evaluation."""
    key = jax.random.key(settings.seed)
    optimizer = make_optimizer(settings, task.frozen)
    state = jax.eval_shape(lambda key: init_state(task, optimizer, key, ema=settings.ema_decay > 0), key)
    update = make_update(task, optimizer, settings, mesh)
    sizes = cluster_sizes(task.clusters) if task.clusters else [size_of(rows) for rows in task.train]
    shares = batches_per_epoch(sizes, settings.batch_size)
    of_buckets = [_rows(rows, settings.batch_size) for rows in task.train]
    of_steps = [flops(update, state, rows, keys_of(settings.seed)) for rows in of_buckets]
    step_flop = sum(n * share for n, share in zip(of_steps, shares, strict=True)) / sum(shares)

    # Validation batches are all of one shape.
    evaluation = len(task.validation) * flops(task.evaluate, state.params, task.validation[0])
    evaluations = len(evaluation_steps(settings)) * (2 if settings.ema_decay else 1)
    flop = settings.steps * step_flop + evaluations * evaluation

    parts = [_rows(rows, settings.batch_size // settings.accumulate) for rows in task.train]
    kept = max(residual_bytes(task.loss, state.params, jax.eval_shape(task.sample, rows, key), key) for rows in parts)
    held = [rows for rows in task.train if not isinstance(rows, Streamed)]
    memory = _bytes((state, state.params, held)) + kept  # the parameters once more: their gradient
    return Cost(n_parameters(state.params), sum(map(size_of, task.train)), step_flop, flop, memory)


def measure_speed(task: Task, settings: Settings, mesh: Mesh, steps: int = 3) -> float:
    """FLOP a second of training, over some steps after the first, whose compilation is not counted."""
    program = compile_program(task, settings, mesh)
    state, done = program.state, 0
    for step, (bucket, rows) in enumerate(program.feed.batches(0, steps + 1)):
        if step == 1:
            jax.block_until_ready(state)
            began = time.perf_counter()
        state, _ = program.updates[bucket](state, rows)
        done += program.flops[bucket] if step else 0
    jax.block_until_ready(state)
    return done / (time.perf_counter() - began)


def _rows(rows: Rows | Streamed, n: int) -> Any:
    """The shapes of n of them."""
    one = first_of(rows, 1)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), one)


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
