"""Speed of the graph transformer against PyTorch on the same machine, and compilations over a ragged set.

    pip install -e '.[data,forces,bench]' && python -m benchmarks.graph_transformer        # some minutes on 2 cores
    python -m benchmarks.graph_transformer --presets=6M --batch=64 --neighbours=20         # on a GPU

PyTorch runs eagerly, the same architecture and number of parameters (checked), on the same frames: NCI compounds with
hydrogens, in PyTorch as a flat list of atoms without padding, here padded to the batch's largest molecule. Adam on both
sides, the norm of the force error as loss. Variants take turns and times are medians over the turns, so that the ratios
of a run stand on a shared machine too. "times ours" above 1 says that ours is faster.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.torch_graphs import TorchGraphTransformer
from benchmarks.turns import seconds
from benchmarks.voxel_unet import DEVICE
from equiscale.data import nci
from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.neighbours import build
from equiscale.flops import flops
from equiscale.models.graph_transformer import PRESETS, GraphTransformer
from equiscale.training.state import n_parameters

CPU_CASES = ("cpu_0.1M", "cpu_0.4M", "1M", "6M")
ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")


def compare(preset: str, molecules, k: int, turns: int) -> str:
    """One row: real atoms a second of inference and of a training step, ours, PyTorch's, and times ours."""
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "cutoff": 6.0}
    model, optimiser = GraphTransformer(**{**PRESETS[preset], **no_dropout}), optax.adam(1e-3)
    graph, _ = build(molecules.positions, molecules.species, k=k, cutoff=6.0)
    real = np.asarray(graph.is_atom)
    n_atoms = int(real.sum())
    target = np.random.default_rng(0).normal(size=graph.positions.shape).astype(np.float32)
    batch = jax.tree.map(jnp.asarray, graph)
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    held = {"state": (params, optimiser.init(params))}

    @partial(jax.jit, donate_argnums=0)
    def step(state, graph, target):
        def loss(params):
            found = model.apply({"params": params}, graph)
            error = jnp.where(real, jnp.square(found.forces - target).sum(-1), 1)
            return jnp.where(real, jnp.sqrt(error), 0).sum() + jnp.abs(found.energy).sum()

        params, optimiser_state = state
        updates, optimiser_state = optimiser.update(jax.grad(loss)(params), optimiser_state, params)
        return optax.apply_updates(params, updates), optimiser_state

    def train():
        held["state"] = step(held["state"], batch, target)
        return held["state"]

    forward = jax.jit(lambda p, g: model.apply({"params": p}, g))
    here = {"forward": partial(forward, jax.tree.map(jnp.copy, params), batch), "step": train}

    torch.manual_seed(0)
    net = TorchGraphTransformer(model).to(DEVICE).train()
    there_parameters = sum(p.numel() for p in net.parameters())
    if n_parameters(params) != there_parameters:
        raise AssertionError(f"{preset}: {n_parameters(params):,} parameters here, {there_parameters:,} in PyTorch")
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    new = np.cumsum(real.reshape(-1)) - 1  # an atom's place in the flat list
    rows = np.arange(len(real))[:, None, None] * real.shape[1] + graph.neighbours
    flat = [
        graph.positions[real], graph.species[real].astype(np.int64), new[rows][real], graph.mask[real],
        np.nonzero(real)[0],
    ]  # fmt: skip
    flat = [torch.from_numpy(np.ascontiguousarray(a)).to(DEVICE) for a in flat]
    flat[0], wanted = flat[0].float(), torch.from_numpy(target[real]).to(DEVICE)

    def torch_forward():
        with torch.no_grad():
            return float(net(*flat, len(real))[1][0, 0])

    def torch_train():
        adam.zero_grad(set_to_none=True)
        energy, forces = net(*flat, len(real))
        loss = (forces - wanted).norm(dim=-1).sum() + energy.abs().sum()
        loss.backward()
        adam.step()
        return float(loss.detach())

    there = {"forward": torch_forward, "step": torch_train}
    row = f"{preset:10} {n_parameters(params) / 1e6:6.2f}M {n_atoms:6} of {real.size:<6}"
    for part in ("forward", "step"):
        times = seconds({"ours": here[part], "torch": there[part]}, turns)
        rates = "".join(f"{n_atoms / t:10.0f}" for t in times.values())
        row += f"{rates} {times['torch'] / times['ours']:5.2f}x"
    return row + f"{flops(step, held['state'], batch, target) / times['ours'] / 1e9:10.1f}"


def attainable() -> float:
    """FLOP/s of a product of two large matrices."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    return 2 * 2048**3 / seconds({"product": lambda: product(a, a)}, 5)["product"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default=",".join(CPU_CASES))
    parser.add_argument("--batch", type=int, default=8, help="molecules")
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--buckets", type=int, default=4, help="padded lengths of the ragged set")
    parser.add_argument("--turns", type=int, default=21)
    wanted = parser.parse_args()
    molecules, _ = nci.load(ELEMENTS, limit=400, max_heavy_atoms=24)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}")
    print(f"a product of matrices: {attainable() / 1e9:.0f} GFLOP/s\n")
    print(
        f"{'atoms per second':34}{'inference':>10}{'torch':>10}{'':7}{'training':>10}{'torch':>10}{'':7}{'GFLOP/s':>9}"
    )
    order = np.argsort(molecules.n_atoms, kind="stable")
    middle = np.sort(order[len(order) // 2 :][: wanted.batch])
    batch = molecules.subset(middle)
    width = batch.n_atoms.max()
    batch = type(batch)(batch.positions[:, :width], batch.species[:, :width], batch.names, batch.source)
    for preset in wanted.presets.split(","):
        print(compare(preset, batch, wanted.neighbours, wanted.turns), flush=True)
    lengths = bucket_lengths(molecules.n_atoms, wanted.buckets)
    rows = bucket_rows(molecules.n_atoms, lengths)
    padded = sum(len(r) * n for r, n in zip(rows, lengths, strict=True))
    sizes = molecules.n_atoms
    print(
        f"\n{len(molecules)} molecules of {sizes.min()} to {sizes.max()} atoms: {len(lengths)} compilations (padded to "
        f"{', '.join(map(str, lengths))}), {100 * sizes.sum() / padded:.0f} % of the atoms computed are real"
    )


if __name__ == "__main__":
    main()
