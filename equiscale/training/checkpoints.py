"""Checkpoints by orbax: atomic, the last few kept, restored into the state's own shapes."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from equiscale.training.state import TrainState


def open_checkpoints(folder: pathlib.Path, keep: int | None = 2) -> ocp.CheckpointManager:
    """The checkpoints of a run folder, the last `keep` of them (None: all); close it (or use `with`) to wait."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager((folder / "checkpoints").absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """Save in the background; a half-written checkpoint is never taken for a whole one."""
    step = int(state.step)
    if step not in checkpoints.all_steps():
        checkpoints.save(step, args=ocp.args.StandardSave(state))


def restore_latest(checkpoints: ocp.CheckpointManager, state: TrainState) -> TrainState | None:
    """The latest saved state with the shapes, types and placement of `state`; None if nothing was saved.

    Raises ValueError naming the folder when the checkpoint is of another model or optimiser.
    """
    step = checkpoints.latest_step()
    if step is None:
        return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    try:
        return checkpoints.restore(step, args=ocp.args.StandardRestore(abstract))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoint {step} in {checkpoints.directory} does not fit this model and optimiser: {error}"
        ) from error


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


def restore_params(folder: pathlib.Path, step: int | None = None) -> tuple[int, Any]:
    """Parameters alone, for measuring: of a run's checkpoint at `step`, or of its latest; `(step, params)`.

    Raises FileNotFoundError naming the folder where there is no checkpoint, ValueError listing the steps there are.
    """
    steps = saved_steps(folder)
    step = steps[-1] if step is None else step
    path = (pathlib.Path(folder) / "checkpoints").absolute()
    if step not in steps:
        raise ValueError(f"{path} has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    with ocp.CheckpointManager(path) as saved:
        state = saved.restore(step, args=ocp.args.StandardRestore())
    return step, state["params"]
