"""Walk-jump sampling of many chains, batch after batch, that goes on where it was stopped or killed."""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from equiscale.data.peaks import Found
from equiscale.sampling.walk_jump import State

CHUNK = 10  # steps between two looks at the progress bar and at requests to stop


class Schedule(NamedTuple):
    """A chain walks `warmup` steps, then `jumps` times `steps` steps and jumps after each."""

    steps: int
    jumps: int
    warmup: int = 0

    @property
    def length(self) -> int:
        """Steps of a chain."""
        return self.step_of(self.jumps - 1)

    def step_of(self, jump: int) -> int:
        """Steps a chain has gone at a jump, counted from 0; also for an array of them."""
        return self.warmup + (jump + 1) * self.steps


class Sampler(NamedTuple):
    """The chains of batch b at their start; a state put where it is walked; n further steps; atoms after a jump."""

    start: Callable[[int], State]
    place: Callable[[State], State]
    advance: Callable[[State, int], State]
    find: Callable[[State], Found]


def walk_batches(
    sampler: Sampler, n_batches: int, schedule: Schedule, folder: pathlib.Path, stop: Callable[[], bool]
) -> Found | None:
    """What was found at every jump: NumPy arrays [n_batches * batch * jumps, ...], the jumps of a chain together.

    In `folder` what a batch of chains found is written at each jump, and after it where the chains are; called again,
    they walk on from there. Either may be missing, as after a kill between the two, since a chain walks the same way
    again. `stop` is asked every few steps: once it says so, the chains are saved and the result is None.

    Raises OSError naming the file that cannot be written.
    """
    found = []
    folder.mkdir(exist_ok=True)
    description = "chains" if n_batches == 1 else f"{n_batches} batches of chains"
    with tqdm(total=n_batches * schedule.length, desc=description, unit="step", mininterval=0.5) as bar:
        for b in range(n_batches):
            parts = [folder / f"{b}-{jump}.npz" for jump in range(schedule.jumps)]
            done = sum(part.exists() for part in parts)
            if done < schedule.jumps:
                state = sampler.place(_resume(sampler.start(b), b, folder))
                _skip(bar, int(state.step))
            else:
                _skip(bar, schedule.length)
            for jump in range(done, schedule.jumps):
                while (left := schedule.step_of(jump) - int(state.step)) > 0:
                    state = sampler.advance(state, min(CHUNK, left))
                    bar.update(min(CHUNK, left))
                    if stop():
                        _save(state, b, folder)
                        return None
                at_jump = sampler.find(state)
                write_arrays(parts[jump], **at_jump._asdict())
                _save(state, b, folder)
                n_atoms = np.count_nonzero(at_jump.species, axis=1)
                bar.set_postfix(molecules=f"{np.mean((n_atoms > 0) & ~at_jump.overflow):.0%}", atoms=n_atoms.mean())
            found.append([Found(**_read(part)) for part in parts])
    by_chain = [jax.tree.map(lambda *jumps: np.stack(jumps, axis=1), *jumps) for jumps in found]
    return jax.tree.map(lambda *a: np.concatenate(a).reshape(-1, *a[0].shape[2:]), *by_chain)


def _skip(bar: tqdm, n: int) -> None:
    """Steps of an earlier start count as done, but not for the speed."""
    bar.n, bar.initial, bar.last_print_n = bar.n + n, bar.initial + n, bar.last_print_n + n


def _save(state: State, batch: int, folder: pathlib.Path) -> None:
    write_arrays(folder / "chains.npz", batch=batch, y=state.y, v=state.v, step=state.step)


def _resume(state: State, batch: int, folder: pathlib.Path) -> State:
    """The saved chains if they are those of this batch, else the given ones."""
    if not (folder / "chains.npz").exists():
        return state
    saved = _read(folder / "chains.npz")
    return state._replace(**saved) if saved.pop("batch") == batch else state


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as saved:
        return dict(saved)


def write_arrays(path: pathlib.Path, **arrays) -> None:
    """An .npz file, written whole or not at all. Raises OSError naming it."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}); make room and start again to go on") from error
