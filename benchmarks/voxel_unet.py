"""Speed of the voxel system against PyTorch on the same machine: U-Net, voxeliser, walk of the sampler.

    pip install -e '.[data,bench]' && python -m benchmarks.voxel_unet             # about ten minutes on 2 cores
    python -m benchmarks.voxel_unet --presets=tiny,small --side=64 --batch=8 --dtype=bfloat16        # on a GPU

The PyTorch U-Net is eager, of the same shape and number of parameters (checked), once in PyTorch's default layout and
once in channels last; Adam on both sides. Variants take turns and times are medians over the turns, so that the ratios
of a run stand on a shared machine too; absolute times do not. "times ours" above 1 says that ours is faster. Ours takes
a batch in parts where that is faster, as `training.accumulate` does; PyTorch takes it whole.
"""

import argparse
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.torch_voxels import TorchUNet, torch_voxelise
from benchmarks.turns import seconds
from equiscale.data.voxels import GEOM_DRUGS, QM9, Grid, voxelise
from equiscale.models.voxel_unet import PRESETS, VoxelUNet
from equiscale.sampling import walk_jump
from equiscale.training.state import n_parameters

CPU_CASES = (  # preset, batch, side of the grid, parts
    *(("cpu_0.3M", 16, 16, 4), ("cpu_0.3M", 4, 32, 4), ("cpu_1M", 16, 16, 4), ("cpu_1M", 4, 32, 4)),
    *(("tiny", 8, 16, 1), ("tiny", 2, 32, 1), ("small", 8, 16, 1), ("small", 2, 32, 1)),
)
VOXEL_CASES = ((Grid(16), 18, 32), (QM9, 18, 16), (GEOM_DRUGS, 45, 4))  # grid, atoms, molecules in a batch
LAYOUTS = {"default": torch.contiguous_format, "channels last": torch.channels_last_3d}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
N_ELEMENTS = 8


def ours(preset: str, x: np.ndarray, dtype, parts: int) -> dict[str, Callable[[], object]]:
    model, optimiser = VoxelUNet(N_ELEMENTS, **{**PRESETS[preset], "dropout": 0.0, "dtype": dtype}), optax.adam(1e-3)
    x = jnp.asarray(x)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    held = {"state": (params, optimiser.init(params))}

    def gradient_of(params, x):
        return jax.grad(lambda p: jnp.square(model.apply({"params": p}, x) - x).sum())(params)

    @partial(jax.jit, donate_argnums=0)
    def step(state, x):
        params, optimiser_state = state
        if parts == 1:
            gradient = gradient_of(params, x)
        else:
            gradient, _ = jax.lax.scan(
                lambda total, part: (jax.tree.map(jnp.add, total, gradient_of(params, part)), None),
                jax.tree.map(jnp.zeros_like, params),
                x.reshape(parts, -1, *x.shape[1:]),
            )
        updates, optimiser_state = optimiser.update(gradient, optimiser_state, params)
        return optax.apply_updates(params, updates), optimiser_state

    def train():
        held["state"] = step(held["state"], x)
        return held["state"]

    forward = jax.jit(lambda p, x: model.apply({"params": p}, x))
    # Trained parameters are donated to the next step, so the forward pass has its own.
    return {"forward": partial(forward, jax.tree.map(jnp.copy, params), x), "step": train, "params": params}


def theirs(preset: str, x: np.ndarray, dtype, layout) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model = TorchUNet(N_ELEMENTS, **PRESETS[preset]).to(DEVICE, memory_format=layout).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    x = torch.from_numpy(x).to(DEVICE).contiguous(memory_format=layout)
    lower = torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype is not None)

    def forward():
        with torch.no_grad(), lower:
            return float(model(x).flatten()[0])

    def train():
        optimiser.zero_grad(set_to_none=True)
        with lower:
            loss = (model(x).float() - x).square().sum()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return {"forward": forward, "step": train, "params": model}


def unet(preset: str, batch: int, side: int, parts: int, dtype, turns: int) -> str:
    """One row of the table: milliseconds of ours and of PyTorch in both layouts, forward and training step."""
    x = np.random.default_rng(0).normal(size=(batch, N_ELEMENTS, side, side, side)).astype(np.float32)
    models = {"ours": ours(preset, x, dtype, parts)}
    models |= {name: theirs(preset, x, dtype, layout) for name, layout in LAYOUTS.items()}
    here, there = (
        n_parameters(models["ours"]["params"]),
        sum(p.numel() for p in models["default"]["params"].parameters()),
    )
    if here != there:
        raise AssertionError(f"{preset}: {here:,} parameters here and {there:,} in PyTorch: not the same network")
    row = f"{preset:10} {here / 1e6:6.2f}M {batch:3} x {side}^3 {f'in {parts}' if parts > 1 else '':5}"
    for part in ("forward", "step"):
        times = seconds({name: model[part] for name, model in models.items()}, turns)
        row += f"{1e3 * times['ours']:9.0f}"
        row += "".join(f"{1e3 * times[name]:9.0f} {times[name] / times['ours']:5.2f}x" for name in LAYOUTS)
    return row


def voxeliser(grid: Grid, n_atoms: int, n_molecules: int, turns: int) -> str:
    """One row: molecules per second, forward and with the gradient in the coordinates."""
    rng = np.random.default_rng(0)
    positions = rng.normal(0, grid.edge / 8, (n_molecules, n_atoms, 3)).astype(np.float32)
    species = rng.choice(grid.numbers[:4], (n_molecules, n_atoms)).astype(np.int32)
    forward = jax.jit(jax.vmap(lambda r, z: voxelise(r, z, grid)))
    gradient = jax.jit(jax.grad(lambda r, z: jnp.square(forward(r, z)).sum()))
    there = torch.from_numpy(positions).to(DEVICE)
    channel = torch.from_numpy(np.searchsorted(np.sort(grid.numbers), species)).to(DEVICE)
    order = torch.from_numpy(np.argsort(grid.numbers)).to(DEVICE)
    channel = order[channel]
    apart = float(
        np.abs(np.asarray(forward(positions, species)) - torch_voxelise(there, channel, grid).cpu().numpy()).max()
    )
    if apart > 1e-5:
        raise AssertionError(f"densities here and in PyTorch are {apart:.1e} apart: not the same voxeliser")

    def torch_gradient():
        r = there.clone().requires_grad_()
        torch_voxelise(r, channel, grid).square().sum().backward()
        return float(r.grad.flatten()[0])

    row = f"{len(grid.elements)} x {grid.length}^3, {n_atoms} atoms, {n_molecules:3} molecules"
    for here, other in (
        (partial(forward, positions, species), lambda: float(torch_voxelise(there, channel, grid).flatten()[0])),
        (partial(gradient, positions, species), torch_gradient),
    ):
        times = seconds({"ours": here, "torch": other}, turns)
        row += (
            "".join(f"{n_molecules / times[name]:10.0f}" for name in times) + f" {times['torch'] / times['ours']:5.2f}x"
        )
    return row


def walk(preset: str, batch: int, side: int, turns: int, n_steps: int = 5) -> str:
    """One row: chain-steps per second of the walk, PyTorch's step written out in eager mode."""
    settings = walk_jump.in_units_of(0.1)
    model = VoxelUNet(N_ELEMENTS, **{**PRESETS[preset], "dropout": 0.0})
    shape = (N_ELEMENTS, side, side, side)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    key = jax.random.key(1)
    start = jax.jit(lambda: walk_jump.start(key, jnp.arange(batch), shape, settings))()
    here = jax.jit(lambda p, s: walk_jump.walk(partial(model.apply, p), s, n_steps, key, settings))
    torch.manual_seed(0)
    net = TorchUNet(N_ELEMENTS, **PRESETS[preset]).to(DEVICE).eval()
    zeta, noise = np.exp(-settings.friction), np.sqrt((1 - np.exp(-2 * settings.friction)) / settings.lipschitz)
    half, kick = settings.delta / 2, settings.delta / 2 / settings.lipschitz

    @torch.no_grad()
    def there():
        y = torch.randn((batch, *shape), device=DEVICE)
        v = torch.zeros_like(y)
        for _ in range(n_steps):
            y = y + half * v
            score = (net(y) - y) / settings.sigma**2
            v = zeta * (v + kick * score) + kick * score + noise * torch.randn_like(y)
            y = y + half * v
        return float(y.flatten()[0])

    times = seconds({"ours": lambda: here(params, start), "torch": there}, turns)
    rates = "".join(f"{batch * n_steps / t:11.1f}" for t in times.values())
    return f"{preset:10} {batch:3} x {side}^3 {rates} {times['torch'] / times['ours']:5.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="", help="of the U-Net, with --side and --batch (default: sizes for CPUs)")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the computation, both")
    parser.add_argument("--parts", type=int, default=1, help="of a batch in ours, a divisor of --batch")
    parser.add_argument("--turns", type=int, default=5)
    wanted = parser.parse_args()
    of_one = (wanted.batch, wanted.side, wanted.parts)
    cases = [(p, *of_one) for p in wanted.presets.split(",")] if wanted.presets else CPU_CASES
    dtype = None if wanted.dtype == "float32" else jnp.bfloat16
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as JAX does
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}, {wanted.dtype}\n")
    head = f"{'ours':>9}" + "".join(f"{name:>16}" for name in LAYOUTS)
    print(f"{'milliseconds':37}{'forward:':9}{head[9:]:>32}   training step:\n{'model':37}{head}{head}")
    for preset, batch, side, parts in cases:
        print(unet(preset, batch, side, parts, dtype, wanted.turns), flush=True)
    print(f"\n{'voxelised, molecules per second':34}{'ours':>10}{'torch':>10} {'':6}{'gradient':>10}{'torch':>10}")
    for grid, n_atoms, n_molecules in VOXEL_CASES:
        print(voxeliser(grid, n_atoms, n_molecules, wanted.turns), flush=True)
    print(f"\n{'chain-steps per second':20}{'ours':>12}{'torch':>11}")
    for preset, batch, side, _ in cases[:2]:
        print(walk(preset, batch, side, wanted.turns), flush=True)


if __name__ == "__main__":
    main()
