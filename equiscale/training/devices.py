"""Where things live: one mesh over all devices of all processes, examples spread over it, parameters copied or spread.

On one host nothing is to be said: every device is used. Several hosts (SLURM, Cloud TPU, MPI) each start the same
command, which calls `start_processes` before anything else of JAX.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

LEAST_SPREAD = 2**14  # numbers in a leaf below which spreading it costs more than it saves

# Dense bfloat16 peak of one device, FLOP/s, as its maker states it.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12}


def start_processes() -> None:
    """Join the other processes of this run, of which the environment tells.

    Raises ValueError where it does not: alone in its belief, each process would train a run of its own.
    """
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            f"no other processes found ({error}): start with srun, mpirun or on every worker of a Cloud TPU, or leave "
            "--distributed out"
        ) from error


def make_mesh() -> Mesh:
    """All devices in one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def evaluation_mesh(mesh: Mesh, n_examples: int) -> Mesh:
    """The same devices for evaluating batches of `n_examples`: what examples cannot fill, group elements do."""
    n_data = math.gcd(n_examples, mesh.size)
    shape = (n_data, mesh.size // n_data)
    return Mesh(mesh.devices.reshape(shape), ("data", "element"), axis_types=(AxisType.Auto,) * 2)


def state_shardings(state: Any, mesh: Mesh, *, fsdp: bool) -> Any:
    """The layout of each leaf of a state: a copy on every device or, with `fsdp`, large ones split."""

    def one(leaf):
        axes = [axis for axis in range(len(leaf.shape)) if leaf.shape[axis] % mesh.size == 0]
        if not fsdp or math.prod(leaf.shape) < LEAST_SPREAD or not axes:
            return NamedSharding(mesh, P())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*(None,) * longest, "data"))

    return jax.tree.map(one, state)


def spread_examples(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: the leading axis of every leaf over the devices; leaves it does not divide stay whole."""

    def one(leaf):
        whole = leaf.ndim == 0 or leaf.shape[0] % mesh.size
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, P() if whole else P("data")))

    return jax.tree.map(one, batch)


def place_batch(read: Callable[[slice], Any], batch_size: int, mesh: Mesh) -> Any:
    """A batch spread over the devices, of which each process reads its own examples only: `read(slice) -> NumPy rows`.

    One that the devices do not divide is placed whole on each.
    """
    layout = NamedSharding(mesh, P() if batch_size % mesh.size else P("data"))
    where = layout.addressable_devices_indices_map((batch_size,))
    parts = {part.indices(batch_size): read(part) for (part,) in {str(w): w for w in where.values()}.values()}

    def one(*leaves):
        shape = (batch_size, *leaves[0].shape[1:])
        by_part = dict(zip(parts, leaves, strict=True))
        return jax.make_array_from_callback(shape, layout, lambda where: by_part[where[0].indices(batch_size)])

    return jax.tree.map(one, *parts.values())


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process holds, as copies on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def peak_flops(mesh: Mesh) -> float | None:
    """Of all devices together, None where it is not known."""
    kind = mesh.devices.flat[0].device_kind
    found = [peak for name, peak in PEAK.items() if name in kind]
    return found[0] * mesh.size if found else None
