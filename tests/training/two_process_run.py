"""One of two processes that train together: `python -m tests.training.two_process_run PORT RANK FOLDER`.

Between the halves the last checkpoint is damaged, so that step 3 is gone on from. The second half streams its batches,
of which each process reads its half alone.
"""

import os
import pathlib
import sys

from tests.commands import devices

os.environ["XLA_FLAGS"] = devices(2)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))

import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from equiscale.tasks.task import Streamed  # noqa: E402
from equiscale.training import loop  # noqa: E402
from tests.training.test_parallel import BASE, wide_task  # noqa: E402

folder = pathlib.Path(sys.argv[3])
settings = BASE._replace(fsdp=True)
loop.train(wide_task(), settings._replace(steps=5, evaluate_at=(5,)), folder, title="first half")
if jax.process_index() == 0:
    for path in (folder / "checkpoints" / "5" / "default").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
multihost_utils.sync_global_devices("damaged")
task, read = wide_task("stream"), []
(stream,) = task.train
counted = Streamed(stream.n, lambda indices: read.append(len(indices)) or stream.read(indices))
state = loop.train(task._replace(train=[counted]), settings, folder, title="second half")
assert sum(read) == (12 - 3 + 1) * settings.batch_size / 2, read  # nine steps, and one batch to compile with
assert (folder / "damaged" / "5").exists()
params = multihost_utils.process_allgather(state.params, tiled=True)
if jax.process_index() == 0:
    np.savez(folder / "end.npz", **params)
