"""What a run will cost, told beforehand: the operations it then counts, and every byte that it holds."""

import jax
import pytest

from equiscale.flops import flops
from equiscale.training import loop
from equiscale.training.prediction import cost_of, measure_speed
from equiscale.training.settings import evaluation_steps
from tests.training.test_loop import SETTINGS, toy_task
from tests.training.test_parallel import mesh_of


@pytest.mark.parametrize("train", ["arrays", "stream", "buckets", "streamed buckets"])
def test_operations_are_those_that_the_loop_counts(train):
    settings = SETTINGS._replace(batch_size=3, ema_decay=0.9)
    task, mesh = toy_task(train=train), mesh_of(1)
    counted = loop.compile_program(task, settings, mesh)
    buckets = [bucket for bucket, _ in counted.feed.batches(0, 12)]  # whole epochs of three or of four batches
    of_steps = sum(counted.flops[bucket] for bucket in buckets)
    evaluation = sum(flops(task.evaluate, counted.state.params, batch) for batch in task.validation)
    cost = cost_of(task, settings, mesh)
    assert cost.flop == pytest.approx(of_steps + 2 * len(evaluation_steps(settings)) * evaluation)
    assert cost.step_flop == pytest.approx(of_steps / 12)
    assert (cost.parameters, cost.examples) == (9, 10)


def test_memory_by_hand():
    """Adam's two moments, the parameters, their gradient; examples; the batch and what it differs by."""
    task, mesh = toy_task(), mesh_of(1)
    cost = cost_of(task, SETTINGS, mesh)
    state = 4 * (9 + 2 * 9 + 9) + 4 * (1 + 1 + 2)  # and step, skipped, recent
    counters = [leaf for leaf in jax.tree.leaves(loop.compile_program(task, SETTINGS, mesh).state) if leaf.ndim == 0]
    state += 4 * (len(counters) - 2)  # the optimiser's own
    examples, residuals = 10 * 5 * 3, 4 * 5 * 3  # the slope of the square; the batch itself is an argument
    assert cost.memory == state + 4 * (examples + residuals)
    in_parts = cost_of(task, SETTINGS._replace(accumulate=2), mesh)
    assert cost.memory - in_parts.memory == 4 * residuals / 2
    streamed = cost_of(toy_task(train="stream"), SETTINGS, mesh)
    assert cost.memory - streamed.memory == 4 * examples


def test_speed_is_what_steps_take():
    assert measure_speed(toy_task(train="buckets"), SETTINGS, mesh_of(1)) > 0
