"""One of two processes of a run: `python two_processes.py PORT RANK`; prints what it measured as JSON."""

import json
import os
import sys

from tests.commands import devices

os.environ["XLA_FLAGS"] = devices(2)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))

from tests.test_devices import KEY, case, decomposition, sharded_call  # noqa: E402
from tests.test_instrument_devices import curvature_numbers, gradient  # noqa: E402

assert jax.process_count() == 2 and len(jax.devices()) == 4
mesh = jax.make_mesh((2, 2), ("data", "element"), axis_types=(AxisType.Auto,) * 2)
results = {}
for name in ("so3.haar(8)", "so3.coset(12, n=2)", "octahedral.enumerate()"):
    arrays = [np.asarray(a) for a in case()]
    spread = [
        jax.make_array_from_callback(a.shape, NamedSharding(mesh, P("data")), lambda index, a=a: a[index])
        for a in arrays
    ]
    for mode, run in {
        "jit": jax.jit(lambda key, *a, name=name: decomposition(name, key, *a)),
        "shard_map": sharded_call(name, mesh),
    }.items():
        d = run(KEY, *spread)
        results[f"{name} {mode}"] = {k: v for k, v in d.record().items() if isinstance(v, float)}
slopes = jax.jit(lambda key, *a: gradient("so3.coset(12, n=2)", key, *a), out_shardings=NamedSharding(mesh, P()))
found = jax.tree.map(lambda a: np.asarray(a).tolist(), slopes(KEY, *spread))
print(json.dumps({"decomposition": results, "gradients": found, "curvature": curvature_numbers(*spread)}))
