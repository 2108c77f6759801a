"""The training loop: evaluate, update, log, save; from step 0 or from where a run was interrupted."""

import collections
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from equiscale.parameters import group_names
from equiscale.tasks.task import Task
from equiscale.training import checkpoints
from equiscale.training.devices import everywhere, make_mesh, peak_flops, state_shardings
from equiscale.training.evaluate import make_evaluate, make_gradients
from equiscale.training.interrupt import Stopped, StopRequest
from equiscale.training.progress import Spent, speed
from equiscale.training.run_folder import MetricLog
from equiscale.training.settings import Settings, evaluation_steps, make_optimizer
from equiscale.training.state import TrainState, init_state
from equiscale.training.update import Report, keys_of, make_update

LATE = 8  # steps after which a report is looked at: by then it is there, and looking does not hold up the device


def train(task: Task, settings: Settings, folder: pathlib.Path, *, title: str, mesh: Mesh | None = None) -> TrainState:
    """Train a task in its run folder, going on from the latest checkpoint if there is one.

    At every evaluation step, before the update, so that step 0 is the untrained model: decompose the validation
    loss of the raw parameters and of the averaged ones, measure the components' gradients if asked to, append a row
    to `metrics.jsonl`, save a checkpoint. Devices of `mesh` (default: all) share the work and change no number beyond
    rounding.

    Raises Stopped after SIGTERM, with everything saved; FloatingPointError naming the step, the parameter groups
    and the last good checkpoint when a loss or gradient is not finite, unless `skip_nonfinite`; OSError naming the
    folder where it cannot be written.
    """
    mesh = mesh or make_mesh()
    spent, began = Spent(), time.perf_counter()
    with spent.on("compile"):
        state, update, data, flops = compile_update(task, settings, mesh)
        evaluate = make_evaluate(task, mesh)
        measure_gradients = (
            make_gradients(task, settings.gradient_examples, mesh) if settings.gradient_examples else None
        )
    wanted = evaluation_steps(settings)
    reports: collections.deque[Report] = collections.deque()

    with checkpoints.open_checkpoints(folder, settings.keep, settings.keep_best) as saved, StopRequest() as stop:
        state = checkpoints.restore_latest(saved, state) or state
        step = first = timed_from = int(state.step)
        log = MetricLog(folder, up_to_step=first)
        train_seconds = 0.0

        def check(report: Report, step: int) -> None:
            if not report.finite and not settings.skip_nonfinite:
                raise FloatingPointError(_divergence(state, report, step, saved))

        with tqdm(total=settings.steps, initial=first, desc=title, unit="step", disable=jax.process_index() > 0) as bar:
            while True:
                if step in wanted and step not in log.steps:
                    with spent.on("train"):
                        jax.block_until_ready(state)
                        while reports:
                            check(reports.popleft(), step - len(reports) - 1)
                    with spent.on("evaluate"):
                        d = _checked(evaluate(state.params), step)
                        row = {"step": step, "training_loss": state.recent_loss, **d.record()}
                        if settings.ema_decay:
                            row["ema"] = _checked(evaluate(state.ema), step).record()
                        if measure_gradients:
                            row["gradients"] = measure_gradients(state.params).record(depth=1)
                    state = dataclasses.replace(state, recent=0 * state.recent)
                    rates = speed(
                        step - timed_from,
                        spent.seconds["train"] - train_seconds,
                        settings.batch_size,
                        flops,
                        peak_flops(mesh),
                    )
                    timed_from, train_seconds = step, spent.seconds["train"]
                    row |= {"skipped": int(state.skipped), "seconds": time.perf_counter() - began}
                    log.write(row | {"spent": spent.rounded(), **rates})
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
                        saved.wait_until_finished()
                    logging.warning("asked to stop: saved step %d in %s; start again to go on", step, folder)
                    raise Stopped(step)
                with spent.on("train"):
                    state, report = update(state, data)
                    step += 1
                    reports.append(report)
                    if len(reports) > LATE:
                        check(reports.popleft(), step - LATE - 1)
                bar.update()
    return state


def untrained_params(task: Task, settings: Settings) -> Any:
    """The parameters that a run of these settings starts from."""
    return jax.jit(task.init)(keys_of(settings.seed)["init"])


def compile_update(task: Task, settings: Settings, mesh: Mesh) -> tuple[TrainState, Callable, Any, float | None]:
    """The untrained state in its place, the compiled update, the data, and an update's FLOP as XLA counts them."""
    optimizer = make_optimizer(settings)

    def init(key):
        return init_state(task, optimizer, key, ema=settings.ema_decay > 0)

    key = keys_of(settings.seed)["init"]
    layout = state_shardings(jax.eval_shape(init, key), mesh, fsdp=settings.fsdp)
    state = jax.jit(init, out_shardings=layout)(key)
    data = everywhere(task.train_data, mesh)
    update = jax.jit(make_update(task, optimizer, settings, mesh), donate_argnums=0, out_shardings=(layout, None))
    compiled = update.lower(state, data).compile()
    costs = compiled.cost_analysis() or {}
    return state, compiled, data, costs.get("flops")


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
    if rates["share_of_peak"]:
        shown["peak"] = f"{100 * rates['share_of_peak']:.0f}%"
    return shown
