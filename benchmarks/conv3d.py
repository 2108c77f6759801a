"""Speed of the two formulations of the 3D convolution, alone and in a U-Net's training step.

    python -m benchmarks.conv3d

Variants take turns, and the times are medians over the turns, so that the ratios of a run stand even on a shared
machine; absolute times do not. Rates count the multiplications and additions of the definition, and backward as
twice forward.
"""

import time
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.turns import seconds
from equiscale.models import conv3d as module
from equiscale.models.voxel_unet import PRESETS, VoxelUNet

FORMULATIONS = ("direct", "slabs")

# Kernel side, stride, batch, side of the finer grid, channels in and out.
LAYERS = (
    (3, 1, 1, 32, 32, 32),
    (3, 1, 4, 32, 32, 32),
    (3, 1, 1, 32, 64, 64),
    (3, 1, 4, 32, 64, 64),
    (3, 1, 1, 32, 128, 128),
    (3, 1, 1, 64, 32, 32),
    (3, 1, 16, 16, 16, 16),
    (3, 1, 16, 16, 32, 16),
    (3, 1, 16, 16, 5, 16),
    (3, 2, 16, 16, 16, 16),
    (4, 2, 16, 16, 16, 16),
    (4, "up", 16, 16, 16, 16),
)

# Preset, batch, side of the grid.
MODELS = (("cpu_0.3M", 16, 16), ("cpu_0.3M", 4, 32), ("cpu_1M", 16, 16), ("cpu_1M", 4, 32))


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def layer_rates(size, stride, batch, side, c_in, c_out, turns=7) -> dict[tuple[str, str], float]:
    """GFLOP/s forward, and forward and backward, of each formulation of one layer."""
    up = stride == "up"
    coarse = side // (2 if up else stride)
    n_in, n_out = (coarse, side) if up else (side, coarse)
    x, kernel = normal(batch, n_in, n_in, n_in, c_in), normal(size, size, size, c_in, c_out)
    y = normal(batch, n_out, n_out, n_out, c_out)
    variants = {}
    for name in FORMULATIONS:

        def layer(x, kernel, name=name):
            if up:
                return module.conv3d_transpose(x, kernel, formulation=name)
            return module.conv3d(x, kernel, stride=stride, formulation=name)

        def both(x, kernel, y, layer=layer):
            output, pull = jax.vjp(layer, x, kernel)
            return output, pull(y)

        variants["forward", name] = partial(jax.jit(layer), x, kernel)
        variants["both", name] = partial(jax.jit(both), x, kernel, y)
    flops = 2 * size**3 * batch * coarse**3 * c_in * c_out
    times = seconds(variants, turns)
    return {key: (flops if key[0] == "forward" else 3 * flops) / t / 1e9 for key, t in times.items()}


def model_times(preset, batch, side, n_elements=5, turns=3) -> dict[tuple[str, str], float]:
    """Seconds of a forward pass, of a training step with Adam, and of compiling the step, by formulation."""
    model, optimiser = VoxelUNet(n_elements, **PRESETS[preset]), optax.adam(1e-3)
    x = normal(batch, n_elements, side, side, side)
    params = jax.jit(model.init)(jax.random.key(0), x)
    state = optimiser.init(params)

    def step(params, state, x):
        def loss(params):
            y = model.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})
            return jnp.mean((y - x) ** 2)

        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    variants, compiling = {}, {}
    for name in FORMULATIONS:
        with mock.patch.object(module, "_resolve", lambda formulation, x, name=name: name):
            # New function objects, so that the other formulation's trace is not used again.
            forward = jax.jit(lambda params, x: model.apply(params, x)).lower(params, x).compile()
            start = time.perf_counter()
            train = jax.jit(lambda *args: step(*args)).lower(params, state, x).compile()
            compiling["compile", name] = time.perf_counter() - start
        variants["forward", name] = partial(forward, params, x)
        variants["step", name] = partial(train, params, state, x)
    return {**seconds(variants, turns), **compiling}


def main() -> None:
    print(f"{'':26} {'forward, GFLOP/s':^24} {'forward + backward':^24}")
    print(f"{'kernel, grid, channels':26}" + f" {'direct':>7} {'slabs':>7} {'ratio':>8}" * 2)
    for size, stride, batch, side, c_in, c_out in LAYERS:
        rates = layer_rates(size, stride, batch, side, c_in, c_out)
        row = f"{size}^3 /{stride:<2} {batch:2} x {side}^3 {c_in:3} -> {c_out:3}"
        for part in ("forward", "both"):
            direct, slabs = (rates[part, name] for name in FORMULATIONS)
            row += f" {direct:7.1f} {slabs:7.1f} {slabs / direct:8.1f}"
        print(row, flush=True)

    print(f"\n{'':26} {'forward, ms':^24} {'training step, ms':^24} {'compiling, s':^15}")
    columns = f" {'direct':>7} {'slabs':>7}"
    print(f"{'model, batch, grid':26}" + f"{columns} {'ratio':>8}" * 2 + columns)
    for preset, batch, side in MODELS:
        times = model_times(preset, batch, side)
        row = f"{preset:10} {batch:3} x {side}^3     "
        for part in ("forward", "step"):
            direct, slabs = (1e3 * times[part, name] for name in FORMULATIONS)
            row += f" {direct:7.0f} {slabs:7.0f} {direct / slabs:8.1f}"
        print(row + "".join(f" {times['compile', name]:7.0f}" for name in FORMULATIONS), flush=True)


if __name__ == "__main__":
    main()
