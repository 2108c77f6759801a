"""A small training run as a process of its own, to be killed: `python -m tests.training.toy_run FOLDER`."""

import pathlib
import sys

import numpy as np

from equiscale.training import loop
from tests.training.test_loop import SETTINGS, toy_task

LONG = SETTINGS._replace(steps=150, evaluations=8, save_every=10, ema_decay=0.9, keep=2)

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    state = loop.train(toy_task(), LONG, folder, title="toy")
    np.savez(folder / "end.npz", params=state.params, ema=state.ema, step=state.step)
