"""Speed of Proteina's transformer against PyTorch on the same machine, and memory with the pairs in parts.

    pip install -e '.[bench]' && python -m benchmarks.flow_transformer               # some minutes on 2 cores
    python -m benchmarks.flow_transformer --presets=60M --batch=8 --residues=256     # on a GPU

PyTorch runs eagerly, the same architecture and number of parameters (checked). Adam on both sides, the squared error of
velocities as loss, a guess given. Variants take turns and times are medians over the turns, so that the ratios of a run
stand on a shared machine too. "times ours" above 1 says that ours is faster. Memory is what the compiled step needs
beside parameters and inputs.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.torch_flow import TorchFlowTransformer
from benchmarks.turns import seconds
from benchmarks.voxel_unet import DEVICE
from equiscale.data.synthetic_chains import synthetic_chains
from equiscale.models.flow_transformer import PRESETS, Chain, FlowTransformer
from equiscale.training.state import n_parameters

CPU_CASES = ("micro", "tiny", "small")


def batch_of(n: int, residues: int) -> Chain:
    x = jnp.asarray(synthetic_chains(n, residues).positions)
    index = jnp.broadcast_to(jnp.arange(1, residues + 1), (n, residues))
    guess = x + 0.1 * jax.random.normal(jax.random.key(1), x.shape)
    noisy = x + jax.random.normal(jax.random.key(0), x.shape)
    return Chain(noisy, index, jnp.zeros(index.shape, bool), jnp.linspace(0, 0.99, n), guess, jnp.ones(n))


def stepper(model: FlowTransformer, optimiser):
    @partial(jax.jit, donate_argnums=0)
    def step(state, chain):
        params, optimiser_state = state
        gradient = jax.grad(lambda p: jnp.square(model.apply({"params": p}, chain).velocity - chain.guess).mean())(
            params
        )
        updates, optimiser_state = optimiser.update(gradient, optimiser_state, params)
        return optax.apply_updates(params, updates), optimiser_state

    return step


def compare(preset: str, chain: Chain, turns: int) -> str:
    """One row: chains a second of inference and of a training step, ours, PyTorch's, and times ours."""
    model, optimiser = FlowTransformer(**PRESETS[preset] | {"folds": ()}), optax.adam(1e-4)
    params = jax.jit(model.init)(jax.random.key(0), chain)["params"]
    step = stepper(model, optimiser)
    held = {"state": (params, optimiser.init(params))}

    def train():
        held["state"] = step(held["state"], chain)
        return held["state"]

    forward = jax.jit(lambda p, c: model.apply({"params": p}, c).velocity)
    here = {"forward": partial(forward, jax.tree.map(jnp.copy, params), chain), "step": train}

    torch.manual_seed(0)
    net = TorchFlowTransformer(model).to(DEVICE)
    there_parameters = sum(p.numel() for p in net.parameters())
    if n_parameters(params) != there_parameters:
        raise AssertionError(f"{preset}: {n_parameters(params):,} parameters here, {there_parameters:,} in PyTorch")
    adam = torch.optim.Adam(net.parameters(), 1e-4)
    fields = (chain.positions, chain.index, chain.breaks, chain.time, chain.guess)
    given = [torch.from_numpy(np.array(a)).to(DEVICE) for a in fields]

    def torch_forward():
        with torch.no_grad():
            return float(net(*given)[0, 0, 0])

    def torch_train():
        adam.zero_grad(set_to_none=True)
        loss = (net(*given) - given[4]).square().mean()
        loss.backward()
        adam.step()
        return float(loss.detach())

    there = {"forward": torch_forward, "step": torch_train}
    row = f"{preset:8} {n_parameters(params) / 1e6:6.2f}M"
    for part in ("forward", "step"):
        times = seconds({"ours": here[part], "torch": there[part]}, turns)
        rates = "".join(f"{len(chain.time) / t:10.1f}" for t in times.values())
        row += f"{rates} {times['torch'] / times['ours']:5.2f}x"
    return row


def memory(preset: str, chain: Chain, rows: int | None) -> float:
    """MB that a training step needs beside its arguments."""
    model = FlowTransformer(**PRESETS[preset] | {"folds": (), "rows_at_once": rows})
    optimiser = optax.sgd(1e-3)
    params = jax.eval_shape(model.init, jax.random.key(0), chain)["params"]
    compiled = stepper(model, optimiser).lower((params, jax.eval_shape(optimiser.init, params)), chain).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=",".join(CPU_CASES))
    parser.add_argument("--batch", type=int, default=8, help="chains")
    parser.add_argument("--residues", type=int, default=64, help="of each")
    parser.add_argument("--turns", type=int, default=5)
    wanted = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}\n")
    print(f"{'chains per second':16}{'inference':>10}{'torch':>10}{'':7}{'training':>10}{'torch':>10}")
    chain = batch_of(wanted.batch, wanted.residues)
    for preset in wanted.presets.split(","):
        print(compare(preset, chain, wanted.turns), flush=True)
    preset, longer = wanted.presets.split(",")[-1], batch_of(2, 4 * wanted.residues)
    found = {rows: memory(preset, longer, rows) for rows in (None, 4 * wanted.residues // 8)}
    told = ", ".join(f"{mb:,.0f} MB with {rows or 'all'} rows of pairs at once" for rows, mb in found.items())
    print(f"\n{preset}, 2 chains of {4 * wanted.residues} residues: {told}")


if __name__ == "__main__":
    main()
