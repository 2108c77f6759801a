"""A trace of chosen steps, for Perfetto or TensorBoard's profiler: what ran on the host and the devices, and when."""

import contextlib
import pathlib
from typing import Any

import jax


class Profile:
    """A context that traces steps `first` to before `end` into `folder/profile`; `steps` None traces nothing."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None):
        self.folder, self.steps, self.running = folder / "profile", steps, False

    def __enter__(self):
        return self

    def before(self, step: int, state: Any) -> contextlib.AbstractContextManager:
        """To be called before each step, `state` being that of the one before; names the step in the trace."""
        if self.steps is None:
            return contextlib.nullcontext()
        if self.running != (step in range(*self.steps)):
            jax.block_until_ready(state)
            self._stop() if self.running else self._start()
        return jax.profiler.StepTraceAnnotation("train", step_num=step) if self.running else contextlib.nullcontext()

    def _start(self) -> None:
        jax.profiler.start_trace(self.folder)
        self.running = True

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self.running = False

    def __exit__(self, *_):
        if self.running:
            self._stop()
