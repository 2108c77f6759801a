"""Checkpoints by orbax: written in the background and whole or not at all, restored on any number of devices."""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from equiscale.training.state import TrainState


@contextlib.contextmanager
def open_checkpoints(folder: pathlib.Path, keep: int | None = 2, keep_best: int = 0) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints of a run folder: the last `keep` (None: all) and the `keep_best` of lowest validation loss.

    The context ends when the last save has. Raises OSError naming the folder if that fails.
    """
    latest = policies.LatestN(keep)
    best = policies.BestN(
        get_metric_fn=lambda m: m["total"], reverse=True, n=keep_best, keep_checkpoints_without_metrics=False
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([latest, best] if keep_best else [latest]),
        cleanup_tmp_directories=True,
        create=True,
        # A folder that cannot be made is known at once; in the background the writers would wait minutes for it.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    checkpoints = ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)
    try:
        yield checkpoints
    finally:
        with _naming(checkpoints):
            checkpoints.close()


@contextlib.contextmanager
def _naming(checkpoints: ocp.CheckpointManager):
    """Saves fail in the background with errors of many kinds, which come up at the next save or wait."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise OSError(
            f"cannot save to {checkpoints.directory}: {reason}; earlier checkpoints are kept, make room or make the "
            "folder writable and start again to go on"
        ) from error


def save(checkpoints: ocp.CheckpointManager, state: TrainState, *, total: float | None = None) -> None:
    """Save in the background; `total` is the validation loss that ranks it. One already there stays as it is.

    Raises OSError naming the folder when it, or the save before, cannot be written.
    """
    step = int(state.step)
    if step in checkpoints.all_steps():
        return
    with _naming(checkpoints):
        metrics = None if total is None else {"total": total}
        checkpoints.save(step, args=ocp.args.StandardSave(state), metrics=metrics)


def finish(checkpoints: ocp.CheckpointManager) -> None:
    """Wait for saves in the background. Raises OSError naming the folder if one has failed."""
    with _naming(checkpoints):
        checkpoints.wait_until_finished()


def restore_latest(checkpoints: ocp.CheckpointManager, state: Any) -> TrainState | None:
    """The latest checkpoint that can be read, with the shapes, types and layout of `state`; None if there is none.

    One that cannot be read is moved out of the way into `damaged/`, which is said, and the one before is taken.
    Raises ValueError naming the folder when a checkpoint is of another model or optimiser.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    for step in sorted(checkpoints.all_steps(), reverse=True):
        restored, failure = None, None
        try:
            restored = checkpoints.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # orbax, tensorstore and the file system raise kinds of their own
            difference = _difference(checkpoints, step, abstract)
            if difference:
                raise ValueError(
                    f"checkpoint {step} in {checkpoints.directory} is of another model or optimiser: {difference}"
                ) from error
            failure = error
        if multihost_utils.process_allgather(np.array(failure is None)).all():
            return restored
        _set_aside(checkpoints, step, failure)
    return None


def _difference(checkpoints: ocp.CheckpointManager, step: int, abstract: Any) -> str | None:
    """What a saved state has other than it should, None if nothing or if it cannot even be told."""
    try:
        saved = _shapes(checkpoints.item_metadata(step))
    except Exception:  # what it was meant to be cannot be read either: damaged, as the caller then says
        return None
    wanted = _shapes(abstract)
    if not saved:
        return None
    lines = [f"{name} has shape {saved[name]}, {wanted[name]} asked for" for name in saved.keys() & wanted.keys()
             if saved[name] != wanted[name]]  # fmt: skip
    lines += [f"{name} is missing" for name in wanted.keys() - saved.keys()]
    lines += [f"{name} is not asked for" for name in saved.keys() - wanted.keys()]
    return "; ".join(sorted(lines)[:5]) or None


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): tuple(a.shape) for p, a in leaves if hasattr(a, "shape")
    }


def _set_aside(checkpoints: ocp.CheckpointManager, step: int, error: Exception | None) -> None:
    """By the first process; `error` is None where only another process could not read its part."""
    there = pathlib.Path(str(checkpoints.directory)) / str(step)
    aside = there.parents[1] / "damaged" / str(step)
    if jax.process_index() == 0:
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(there, aside)
    multihost_utils.sync_global_devices(f"checkpoint {step} is set aside")
    checkpoints.reload()
    reason = (str(error or "by another process").splitlines() or [type(error).__name__])[0][:200]
    logging.warning("checkpoint %d cannot be read (%s); it is now in %s, the one before is used", step, reason, aside)


def saved_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a run folder. Raises FileNotFoundError naming the folder where there is none."""
    path = (pathlib.Path(folder) / "checkpoints").absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: train this run first")
    with ocp.CheckpointManager(path) as saved:
        steps = sorted(saved.all_steps())
    if not steps:
        raise FileNotFoundError(f"{path} holds no checkpoint: train this run first")
    return steps


def restore_params(folder: pathlib.Path, step: int | None = None, *, averaged: bool = False) -> tuple[int, Any]:
    """Parameters alone, for measuring: of a run's checkpoint at `step`, or of its latest; `(step, params)`.

    `averaged` takes their exponential average. It can be called while a program is traced, whose constants they are.
    Raises FileNotFoundError naming the folder where there is no checkpoint, ValueError listing the steps there are, or
    where no average was kept.
    """
    steps = saved_steps(folder)
    step = steps[-1] if step is None else step
    path = (pathlib.Path(folder) / "checkpoints").absolute()
    if step not in steps:
        raise ValueError(f"{path} has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    with ThreadPoolExecutor(1) as apart:  # not part of a program that is being traced here, in which nothing is read
        state = apart.submit(_restore, path, step).result()
    if averaged and not jax.tree.leaves(state.get("ema")):
        raise ValueError(f"{path} holds no averaged parameters: train with ema_decay above 0")
    return step, state["ema" if averaged else "params"]


def _restore(path: pathlib.Path, step: int) -> Any:
    with ocp.CheckpointManager(path) as saved:
        return saved.restore(step, args=ocp.args.StandardRestore())
