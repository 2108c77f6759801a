"""The training loop: evaluate, update, log, save; from step 0 or from where a run was interrupted."""

import collections
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from equiscale.flops import flops_of
from equiscale.parameters import group_names
from equiscale.tasks.task import Task
from equiscale.training import checkpoints
from equiscale.training.batches import Feed, make_feed
from equiscale.training.devices import make_mesh, peak_flops, state_shardings
from equiscale.training.evaluate import make_evaluate
from equiscale.training.instruments import Instrument
from equiscale.training.interrupt import Stopped, StopRequest
from equiscale.training.profile import Profile
from equiscale.training.progress import Spent, speed
from equiscale.training.run_folder import MetricLog
from equiscale.training.settings import Settings, evaluation_steps, make_optimizer
from equiscale.training.state import TrainState, init_state
from equiscale.training.update import Keys, Report, keys_of, make_update

LATE = 8  # steps after which a report is looked at: by then it is there, and looking does not hold up the device


def train(
    task: Task,
    settings: Settings,
    folder: pathlib.Path,
    *,
    title: str,
    mesh: Mesh | None = None,
    instruments: Mapping[str, Instrument] | None = None,
    tensorboard: bool = False,
    profile: tuple[int, int] | None = None,
) -> TrainState:
    """Train a task in its run folder, going on from the latest checkpoint if there is one.

    At every evaluation step, before the update, so that step 0 is the untrained model: decompose the validation
    loss of the raw parameters and of the averaged ones, take the `instruments`, append a row to `metrics.jsonl` (and
    to TensorBoard's log), save a checkpoint. Devices of `mesh` (default: all) share the work and change no number
    beyond rounding. `profile` traces steps from the first number to before the second.

    Raises Stopped after SIGTERM, with everything saved; FloatingPointError naming the step, the parameter groups
    and the last good checkpoint when a loss or gradient is not finite, unless `skip_nonfinite`; OSError naming the
    folder where it cannot be written.
    """
    mesh = mesh or make_mesh()
    spent, began = Spent(), time.perf_counter()
    with spent.on("compile"):
        program = compile_program(task, settings, mesh)
        state = program.state
        evaluate = make_evaluate(task, mesh)
    wanted = evaluation_steps(settings)
    reports: collections.deque[Report] = collections.deque()

    with (
        checkpoints.open_checkpoints(folder, settings.keep, settings.keep_best) as saved,
        StopRequest() as stop,
        Profile(folder, profile) as trace,
        tqdm(total=settings.steps, desc=title, unit="step", mininterval=0.5, disable=jax.process_index() > 0) as bar,
    ):
        state = checkpoints.restore_latest(saved, state) or state
        step = first = int(state.step)
        log = MetricLog(folder, up_to_step=first, tensorboard=tensorboard)
        batches = program.feed.batches(first, settings.steps)
        bar.n = bar.initial = bar.last_print_n = first  # steps of an earlier start do not count for the speed
        steps_then, seconds_then, flops = first, 0.0, 0
        began -= log.rows[-1]["seconds"] if log.rows else 0.0  # earlier starts

        def check(report: Report, step: int) -> None:
            if not report.finite and not settings.skip_nonfinite:
                raise FloatingPointError(_divergence(state, report, step, saved))

        while True:
            if step in wanted and not log.has(step):
                with spent.on("train"):
                    jax.block_until_ready(state)
                    while reports:
                        check(reports.popleft(), step - len(reports) - 1)
                with spent.on("evaluate"):
                    d = _checked(evaluate(state.params), step)
                    row = {"step": step, "training_loss": state.recent_loss, **d.record()}
                    if settings.ema_decay:
                        row["ema"] = _checked(evaluate(state.ema), step).record()
                    row |= {name: measure(state.params) for name, measure in (instruments or {}).items()}
                state = dataclasses.replace(state, recent=0 * state.recent)
                done, seconds = step - steps_then, spent.seconds["train"] - seconds_then
                rates = speed(seconds, done, done * settings.batch_size, flops, peak_flops(mesh))
                steps_then, seconds_then, flops = step, spent.seconds["train"], 0
                row |= {"skipped": int(state.skipped), "seconds": time.perf_counter() - began}
                log.write(row | {"spent": spent.rounded(), **rates}, d.per_example)
                with spent.on("save"):
                    checkpoints.save(saved, state, total=row["total"])
                bar.set_postfix(_shown(row, rates))
            elif settings.save_every and step % settings.save_every == 0 and step > first:
                with spent.on("save"):
                    checkpoints.save(saved, state)
            if step >= settings.steps:
                break
            if stop.requested or saved.reached_preemption(step):
                with spent.on("save"):
                    checkpoints.save(saved, state)
                    checkpoints.finish(saved)
                logging.warning("asked to stop: saved step %d in %s; start again to go on", step, folder)
                raise Stopped(step)
            with spent.on("profile"):
                named = trace.before(step, state)
            with spent.on("train"), named:
                bucket, rows = next(batches)
                state, report = program.updates[bucket](state, rows)
                flops += program.flops[bucket]
                step += 1
                reports.append(report)
                if len(reports) > LATE:
                    check(reports.popleft(), step - LATE - 1)
            bar.update()
    return state


def untrained_params(task: Task, settings: Settings) -> Any:
    """The parameters that a run of these settings starts from."""
    return jax.jit(task.init)(keys_of(settings.seed)["init"])


class Program(NamedTuple):
    """A run before its first step: the untrained state in its place, its batches, and one compiled update a bucket."""

    state: TrainState
    feed: Feed
    updates: list[Callable[[TrainState, Any], tuple[TrainState, Report]]]
    flops: list[int]  # of each update, all devices together


def compile_program(task: Task, settings: Settings, mesh: Mesh) -> Program:
    """Raises what `make_update` and `make_feed` raise."""
    optimizer = make_optimizer(settings, task.frozen)
    keys = keys_of(settings.seed)

    def init(key):
        return init_state(task, optimizer, key, ema=settings.ema_decay > 0)

    layout = state_shardings(jax.eval_shape(init, keys["init"]), mesh, fsdp=settings.fsdp)
    state = jax.jit(init, out_shardings=layout)(keys["init"])
    feed = make_feed(task.train, keys["order"], settings.batch_size, mesh, task.clusters)
    update = make_update(task, optimizer, settings, mesh)
    # Neither the seed nor the number of examples is part of the program: other seeds' runs and those of other fractions
    # of the data find it among the compiled ones.
    jitted = jax.jit(update, donate_argnums=0, out_shardings=(layout, None))
    keys = jax.jit(functools.partial(keys_of, settings.seed), out_shardings=NamedSharding(mesh, P()))()
    traced = [jitted.trace(state, feed.example(bucket), keys) for bucket in range(feed.n_buckets)]
    updates = [functools.partial(_call, t.lower().compile(), keys) for t in traced]
    return Program(state, feed, updates, [flops_of(t.jaxpr.jaxpr) for t in traced])


def _call(compiled: Callable, keys: Keys, state: TrainState, rows: Any) -> tuple[TrainState, Report]:
    return compiled(state, rows, keys)


def _divergence(state: TrainState, report: Report, step: int, saved) -> str:
    groups = list(dict.fromkeys(group_names(state.params)))
    bad = [name for name, finite in zip(groups, np.asarray(report.group_finite), strict=True) if not finite]
    what = f"the training loss is {float(report.loss)}"
    if bad:
        what += f" and the gradient of {', '.join(bad[:6])}{' and others' if len(bad) > 6 else ''} is not finite"
    return (
        f"at step {step} {what}; the last good checkpoint is step {saved.latest_step()} in {saved.directory}. Lower "
        "the learning rate, clip gradients, or set skip_nonfinite"
    )


def _checked(d, step: int):
    try:
        return d.check()
    except FloatingPointError as error:
        raise FloatingPointError(f"evaluation at step {step}: {error}") from error


def _shown(row: dict[str, Any], rates: dict[str, float | None]) -> dict[str, str]:
    shown = {"loss": f"{row['total']:.3g}", "equiv": f"{row['percent']:.2f}%"}
    if rates["examples_per_second"]:
        shown["ex/s"] = f"{rates['examples_per_second']:.3g}"
    if rates["flops_per_second"]:
        shown["FLOP/s"] = f"{rates['flops_per_second']:.2g}"
    if rates["share_of_peak"]:
        shown["peak"] = f"{100 * rates['share_of_peak']:.0f}%"
    return shown
