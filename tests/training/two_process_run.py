"""One of two processes that train together: `python -m tests.training.two_process_run PORT RANK FOLDER`."""

import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))

import numpy as np  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

from equiscale.training import loop  # noqa: E402
from tests.training.test_parallel import BASE, wide_task  # noqa: E402

folder = pathlib.Path(sys.argv[3])
settings = BASE._replace(fsdp=True)
loop.train(wide_task(), settings._replace(steps=5, evaluate_at=(5,)), folder, title="first half")
state = loop.train(wide_task(), settings, folder, title="second half")
params = multihost_utils.process_allgather(state.params, tiled=True)
if jax.process_index() == 0:
    np.savez(folder / "end.npz", **params)
