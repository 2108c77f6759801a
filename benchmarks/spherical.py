"""Speed of networks on the sphere, against e3nn on PyTorch where it has the layers, and the memory of their attention.

    pip install -e '.[data,forces,bench]' && python -m benchmarks.spherical          # some minutes on 2 cores
    python -m benchmarks.spherical memory                                            # compiles only
    python -m benchmarks.spherical speed --channels=128 --batch=128 --points=192     # on a GPU

All kinds with the same channels, layers and frames: NCI compounds with hydrogens, in PyTorch as a flat list of edges,
here padded to the batch's largest molecule. A network is one layer (message and update) between embedding and heads;
points are not turned in training. PyTorch runs eagerly what has the same parameters and, checked, the same energies and
forces. Adam on both sides, the norm of the force error as loss. Variants take turns and times are medians over the
turns, so that the ratios of a run stand on a shared machine too; above 1x ours is faster. Memory is of temporaries, of
the compiled program.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.torch_spherical import TorchTensorNetwork
from benchmarks.turns import seconds
from benchmarks.voxel_unet import DEVICE
from equiscale.data import nci
from equiscale.data.graphs import Graph
from equiscale.data.neighbours import build
from equiscale.models.spherical_transformer import KINDS, SphericalTransformer
from equiscale.training.state import n_parameters

ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
IN_E3NN = ("tfn", "mace", "equiformer")
ATOMS = 20  # of a molecule, about


def frames(n: int, k: int) -> Graph:
    molecules, _ = nci.load(ELEMENTS, limit=400, max_heavy_atoms=24)
    order = np.argsort(molecules.n_atoms, kind="stable")
    first = max(np.searchsorted(molecules.n_atoms[order], ATOMS) - n // 2, 0)
    chosen = molecules.subset(np.sort(order[first : first + n]))
    width = chosen.n_atoms.max()
    return build(chosen.positions[:, :width], chosen.species[:, :width], k=k, cutoff=6.0)[0]


def ours(model: SphericalTransformer, graph: Graph, target: np.ndarray) -> dict:
    optimiser = optax.adam(1e-3)
    batch, real = jax.tree.map(jnp.asarray, graph), np.asarray(graph.is_atom)
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
    copy = jax.tree.map(jnp.copy, params)
    return {"forward": partial(forward, copy, batch), "step": train, "params": copy}


def theirs(model: SphericalTransformer, params, graph: Graph, target: np.ndarray) -> dict:
    net = TorchTensorNetwork(model, params).to(DEVICE)
    there = sum(p.numel() for p in net.parameters())
    if n_parameters(params) != there:
        raise AssertionError(f"{n_parameters(params):,} parameters here, {there:,} in PyTorch")
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    real = np.asarray(graph.is_atom)
    new = np.cumsum(real.reshape(-1)) - 1  # an atom's place in the flat list
    molecule, atom, slot = np.nonzero(graph.mask)
    width = real.shape[1]
    receiver = new[molecule * width + atom]
    sender = new[molecule * width + np.asarray(graph.neighbours)[molecule, atom, slot]]
    flat = [np.asarray(graph.positions)[real], np.asarray(graph.species)[real].astype(np.int64)]
    flat = [torch.from_numpy(a).to(DEVICE) for a in (*flat, receiver, sender, np.nonzero(real)[0])]
    flat[0], wanted = flat[0].float(), torch.from_numpy(target[real]).to(DEVICE)

    def forward():
        with torch.no_grad():
            return tuple(a.cpu().numpy() for a in net(*flat, len(real)))

    def train():
        adam.zero_grad(set_to_none=True)
        energy, forces = net(*flat, len(real))
        loss = (forces - wanted).norm(dim=-1).sum() + energy.abs().sum()
        loss.backward()
        adam.step()
        return float(loss.detach())

    return {"forward": forward, "step": train}


def check_same(found, expected, kind: str) -> float:
    """The largest difference of energies and forces, over their size; raises AssertionError above 1e-4."""
    apart = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(found, expected, strict=True))
    if not apart < 1e-4:
        raise AssertionError(f"{kind}: energies and forces here and in PyTorch differ by {apart:.1e} of their size")
    return apart


def speed(wanted: argparse.Namespace) -> None:
    graph = frames(wanted.batch, wanted.neighbours)
    n, real = len(graph.positions), np.asarray(graph.is_atom)
    target = np.random.default_rng(0).normal(size=graph.positions.shape).astype(np.float32)
    sizes = {"channels": wanted.channels, "hidden": 2 * wanted.channels, "n_layers": wanted.layers}
    variants, numbers, apart = {}, {}, {}
    for kind in wanted.kinds.split(","):
        model = SphericalTransformer(**KINDS[kind] | sizes | {"points": wanted.points, "turned": False})
        variants[kind] = ours(model, graph, target)
        params = jax.tree.map(np.asarray, variants[kind].pop("params"))
        numbers[kind] = n_parameters(params)
        if kind in IN_E3NN:
            there = theirs(model, params, graph, target)
            found = variants[kind]["forward"]()
            apart[kind] = check_same((found.energy, np.asarray(found.forces)[real]), there["forward"](), kind)
            variants[f"{kind} in e3nn"] = there
    times = {
        part: seconds({name: variant[part] for name, variant in variants.items()}, wanted.turns)
        for part in ("forward", "step")
    }
    print(f"{n} molecules of {real.sum() / n:.1f} atoms, {graph.mask.sum()} edges in {graph.mask.size} slots; ", end="")
    print(f"{wanted.channels} channels, {wanted.layers} layer(s), {wanted.points} points; molecules a second\n")
    columns = "".join(f"{name:>11}{'e3nn':>9}{'':7}" for name in ("inference", "training"))
    print(f"{'kind':18}{'parameters':>11}{columns}{'differs by':>12}")
    for kind, number in numbers.items():
        row = f"{kind:18}{number:11,}"
        for part in ("forward", "step"):
            row += f"{n / times[part][kind]:11.1f}"
            other = times[part].get(f"{kind} in e3nn")
            row += f"{n / other:9.1f} {other / times[part][kind]:5.2f}x" if other else " " * 16
        print(row + (f"{apart[kind]:12.0e}" if kind in apart else ""))
    for suffix in ("", "_ga"):
        if {f"est_exact{suffix}", f"est_published{suffix}"} <= set(numbers):
            ratios = [t[f"est_exact{suffix}"] / t[f"est_published{suffix}"] for t in times.values()]
            print(
                f"\nest_exact{suffix} over est_published{suffix}, time: {ratios[0]:.2f} inference, {ratios[1]:.2f} step"
            )


def memory(wanted: argparse.Namespace) -> None:
    """Temporaries of the gradient of spherical messages, which hold S x S logits for each edge."""
    graph = jax.tree.map(jnp.asarray, frames(wanted.batch, wanted.neighbours))
    print(f"{graph.mask.size} edges, {wanted.channels} channels; temporaries of a gradient in MB\n")
    sizes = [int(s) for s in wanted.sizes.split(",")]
    print(f"{'':36}" + "".join(f"{f'S = {s}':>10}" for s in sizes))
    for kind in ("est_published", "est_exact"):
        for at_once in (None, wanted.at_once):
            row = f"{kind:14} {f'{at_once} edges at once' if at_once else 'all edges at once':21}"
            for points in sizes:
                fields = {"channels": wanted.channels, "n_layers": 1, "hidden": 2 * wanted.channels}
                fields |= {"points": points, "items_at_once": at_once, "turned": False}
                row += f"{temporaries(SphericalTransformer(**KINDS[kind] | fields), graph) / 1e6:10.0f}"
            print(row, flush=True)


def temporaries(model: SphericalTransformer, graph: Graph) -> int:
    params = jax.eval_shape(model.init, jax.random.key(0), graph)

    def loss(params, graph):
        found = model.apply(params, graph)
        return jnp.square(found.forces).sum() + jnp.square(found.energy).sum()

    return jax.jit(jax.grad(loss)).lower(params, graph).compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("speed", "memory", "all"), default="all")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--batch", type=int, default=16, help="molecules")
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--points", type=int, default=94)
    parser.add_argument("--sizes", default="32,94,192", help="numbers of points for the memory")
    parser.add_argument("--at_once", type=int, default=256, help="edges whose logits are held together")
    parser.add_argument("--turns", type=int, default=5)
    wanted = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}")
    if wanted.part in ("speed", "all"):
        speed(wanted)
    if wanted.part in ("memory", "all"):
        memory(wanted)


if __name__ == "__main__":
    main()
