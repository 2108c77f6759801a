"""What a K-element decomposition costs over K plain forward passes, in time and memory, and what each measure buys.

    python -m benchmarks.decompose            # all three tables, about ten minutes on 2 cores
    python -m benchmarks.decompose cost       # time and memory only
    python -m benchmarks.decompose accuracy   # error of the percent at equal cost only

Ratios are medians within one run with the two sides interleaved: absolute times on a shared machine drift.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import equiscale as es
from benchmarks.transformer import CoordinateTransformer, molecules, train_denoiser
from equiscale.models.voxel_unet import VoxelUNet

REPEATS = 7
SIGMAS = (0.3, 1.0)  # angstrom, noise of the coordinate denoisers: a rough function of rotations and a smooth one


def seconds(run) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def interleaved(**runs) -> dict[str, float]:
    """Median seconds of each, taken in turn."""
    for run in runs.values():
        seconds(run)  # compiled
    times = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: statistics.median(t) for name, t in times.items()}


def temporary_bytes(function, *args) -> int:
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


def bare_scan(forward, k):
    """The least that K passes in a loop need: a running sum of predictions, no group and no loss."""

    def run(x):
        def step(total, scale):
            turned = jax.tree.map(lambda a: a * scale if jnp.issubdtype(a.dtype, jnp.floating) else a, x)
            return jax.tree.map(jnp.add, total, forward(turned)), None

        start = jax.tree.map(lambda z: jnp.zeros(z.shape, z.dtype), jax.eval_shape(forward, x))
        return jax.lax.scan(step, start, jnp.linspace(0.5, 1.5, k))[0]

    return run


def cost_row(label, forward, sym, x, y, chunk=None) -> None:
    """One row: time over K forward passes, and peak temporary memory over one pass at chunk 1."""
    key, k = jax.random.key(0), sym.measure.n_elements

    def decomposed(x, y, chunk=chunk):
        return es.decompose(forward, sym, x, y, key=key, chunk=chunk)

    plain, whole = jax.jit(forward), jax.jit(decomposed)
    t = interleaved(plain=lambda: plain(x), whole=lambda: whole(x, y))
    one_pass = temporary_bytes(forward, x)
    memory = temporary_bytes(lambda x, y: decomposed(x, y, 1), x, y) / one_pass
    scan = temporary_bytes(bare_scan(forward, k), x) / one_pass
    print(
        f"| {label} | {sym.measure} | {k} | {1e3 * t['plain']:.1f} | {t['whole'] / (k * t['plain']):.2f} "
        f"| {memory:.2f} | {scan:.2f} |",
        flush=True,
    )


def cost() -> None:
    print("\nMemory: peak temporary bytes over those of one pass, at chunk 1 and in a bare loop of K passes.\n")
    print("| model, batch | measure | K | one pass, ms | time / K passes | memory | memory, bare loop |")
    print("|---|---|---|---|---|---|---|")
    measures = (es.so3.coset(12), es.so3.coset(24), es.so3.coset(60))
    model = CoordinateTransformer()
    positions, species = molecules(32)
    params = jax.jit(model.init)(jax.random.key(0), positions[:1], species[:1])
    for batch in (32, 8, 1):
        x = {"positions": positions[:batch], "species": species[:batch]}
        for measure in measures:
            sym = es.Symmetry(measure, {"positions": es.vectors, "species": es.trivial}, es.vectors)
            cost_row(
                f"transformer, {batch}",
                lambda x: model.apply(params, x["positions"], x["species"]),
                sym,
                x,
                x["positions"],
            )
    unet = VoxelUNet(5, n_channels=16, n_groups=8, channel_multipliers=(1, 2, 2), attention_levels=(False, False, True))
    for batch, side in ((32, 16), (4, 32)):
        v = jax.random.normal(jax.random.key(0), (batch, 5, side, side, side))
        weights = jax.jit(unet.init)(jax.random.key(0), v[:1])
        sym = es.Symmetry(es.octahedral.enumerate(), es.grid, es.grid)
        cost_row(f"U-Net {side}³, {batch}", lambda v, w=weights: unet.apply(w, v), sym, v, v)


def accuracy(sigma: float, repetitions: int = 100) -> None:
    """Error of the percent from the group draws alone: fixed molecules and noise, elements drawn anew."""
    model = CoordinateTransformer(width=64, layers=3)
    positions, species = molecules(1_000)
    params, loss = train_denoiser(model, positions, species, sigma=sigma)
    x, s = positions[:32], species[:32]
    eps = jax.random.normal(jax.random.key(5), x.shape) * (s > 0)[..., None]

    def percent(measure, key, plug_in=False):
        sym = es.Symmetry(measure, {"positions": es.vectors, "species": es.trivial}, es.vectors)
        batch = {"positions": x + sigma * eps, "species": s}

        def f(x):
            return model.apply(params, x["positions"], x["species"])

        return es.decompose(f, sym, batch, eps, key=key, mask=s > 0, plug_in=plug_in).percent

    truth = jax.jit(lambda key: percent(es.so3.coset(60, n=16), key))
    truth = float(np.mean([truth(jax.random.key(i)) for i in range(2)]))
    print(f"\nDenoiser of {sigma:g} Å noise, trained to {loss:.3f}; true percent from equivariance error {truth:.4f}\n")
    print("| measure | K | bias, % of the percent | RMS error, % of the percent |")
    print("|---|---|---|---|")
    cases = [(es.so3.haar(10), True), (es.so3.haar(12), True)]
    for k in (12, 24, 60):
        cases += [(es.so3.haar(k), False), (es.so3.coset(k), False)]
    for measure, plug_in in [*cases, (es.so3.coset(12, n=2), False)]:
        run = jax.jit(lambda key, m=measure, p=plug_in: percent(m, key, p))
        draws = jnp.array([run(key) for key in jax.random.split(jax.random.key(3), repetitions)])
        relative = 100 * (np.asarray(draws, np.float64) / truth - 1)
        name = measure.name + (", plug-in" if plug_in else "")
        rms = np.sqrt(np.mean(relative**2))
        print(f"| {name} | {measure.n_elements} | {relative.mean():+.2f} | {rms:.2f} |", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["cost", "accuracy"]
    device = jax.devices()[0]
    print(f"jax {jax.__version__}, {device.platform} {device.device_kind}")
    if "cost" in wanted:
        cost()
    if "accuracy" in wanted:
        for sigma in SIGMAS:
            accuracy(sigma)
