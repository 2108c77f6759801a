"""Checkpoints by orbax: atomic, the last few kept, restored into the state's own shapes."""

import pathlib

import jax
import orbax.checkpoint as ocp

from equiscale.training.state import TrainState


def open_checkpoints(folder: pathlib.Path, keep: int = 2) -> ocp.CheckpointManager:
    """The checkpoints of a run folder; close it (or use `with`) to wait for the last save."""
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
