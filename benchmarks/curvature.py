"""Dense Hessians of mean and equivariance loss: blocks of columns with the frozen trunk cached, against other ways.

    python -m benchmarks.curvature              # all tables, about ten minutes on 2 cores
    python -m benchmarks.curvature hessians
    python -m benchmarks.curvature head         # of EScAIP's force head and the network before it
    python -m benchmarks.curvature gradients

Ten rotations, about 10,000 outputs over all of them, float64. Seconds are for all columns, from the median of a few
blocks times their number (`jax.hessian` is run whole, where it fits), the ways interleaved. Memory is the compiler's
peak of temporaries, the cached features beside it; the matrices themselves are extra.
"""

import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import equiscale as es
from benchmarks.decompose import interleaved, seconds, temporary_bytes
from benchmarks.transformer import CoordinateTransformer, molecules
from equiscale import curvature, force_algebra
from equiscale.components import components
from equiscale.gradients import gradients
from equiscale.head_components import head_components
from equiscale.head_range import head_range
from equiscale.models.force_head import ForceHead

HEADS = {1_455: (484, None), 6_863: (66, 98), 33_399: (128, 253)}  # parameters: features, hidden width of the head
BLOCK = 16


class Model(nn.Module):
    """Points that see their mean, through a trunk of 1.4M parameters; the Hessian is of the head, one or two layers."""

    features: int
    hidden: int | None

    @nn.compact
    def __call__(self, x):
        h = jnp.concatenate([x, x - x.mean(1, keepdims=True)], -1)
        for i, width in enumerate((*[512] * 6, self.features)):
            h = nn.gelu(nn.Dense(width, name=f"trunk_{i}")(h))
        if self.hidden:
            h = nn.gelu(nn.Dense(self.hidden, name="head_1")(h))
        return nn.Dense(3, name="head_2")(h)


def setting(n: int, cache: bool):
    """Components of a model whose head has `n` parameters."""
    model = Model(*HEADS[n])
    x, y = jax.random.normal(jax.random.key(0), (2, 16, 21, 3))
    params = jax.jit(model.init)(jax.random.key(1), x[:1])
    sym = es.Symmetry(es.so3.haar(10), es.vectors, es.vectors)
    return components(model.apply, params, sym, x, y, key=jax.random.key(2), only="*/head_*", cache=cache)


def megabytes(c, block: int) -> float:
    with c.precision():
        directions = jnp.zeros((block, c.n))
        return (
            temporary_bytes(lambda d, v, b: c.products_of(d, v, b, ("mean", "equiv")), c.data, c.vector, directions)
            / 1e6
        )


def by_jax_hessian(c) -> tuple[float, float]:
    """Seconds and megabytes of `jax.hessian` of both components, the trunk cached."""
    with c.precision():
        run = jax.jit(lambda d, v: jax.hessian(lambda v: [c.losses_of(d, v)[p] for p in ("mean", "equiv")])(v))
        compiled = run.lower(c.data, c.vector).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes / 1e6
        if memory > 12e3:
            return float("nan"), memory
        return min(seconds(lambda: compiled(c.data, c.vector)) for _ in range(2)), memory


def hessians() -> None:
    print("\n| parameters | way | seconds for all columns | temporaries, MB | cached features, MB |")
    print("|---|---|---|---|---|")
    for n in HEADS:
        cached, recomputed = setting(n, True), setting(n, False)
        assert cached.n == recomputed.n == n, cached.n
        ways = {
            "one column at a time, trunk recomputed": (recomputed, 1),
            f"{BLOCK} columns, trunk recomputed": (recomputed, BLOCK),
            "one column at a time, trunk cached": (cached, 1),
            f"{BLOCK} columns, trunk cached": (cached, BLOCK),
        }

        def block_of(c, size):
            directions = np.eye(size, c.n)
            return lambda: c.products(c.vector, directions)

        times = interleaved(**{way: block_of(c, size) for way, (c, size) in ways.items()})
        for way, (c, size) in ways.items():
            features = sum(f.nbytes for f in c.data.features) / 1e6
            total = times[way] * n / size
            print(f"| {n:,} | {way} | {total:.1f} | {megabytes(c, size):.0f} | {features:.0f} |", flush=True)
        if n < 10_000:
            total, memory = by_jax_hessian(cached)
            shown = "does not fit" if np.isnan(total) else f"{total:.1f}"
            print(f"| {n:,} | jax.hessian, trunk cached | {shown} | {memory:,.0f} | |", flush=True)
        if n < 7_000:
            began = time.perf_counter()
            found = curvature.hessians(cached, block=BLOCK)
            built = time.perf_counter() - began
            for matrix in found.values():
                np.linalg.eigvalsh(matrix)
            solved = time.perf_counter() - began - built
            print(f"| {n:,} | both matrices, whole / their eigenvalues | {built:.1f} / {solved:.1f} | | |", flush=True)
        else:
            began = time.perf_counter()
            ends = curvature.extremes(cached, "mean", key=jax.random.key(0), n_steps=50)
            took = time.perf_counter() - began
            print(f"| {n:,} | largest eigenvalue, 50 Lanczos steps (error {ends.largest_error:.0e}) | {took:.1f} | | |")


class Head(nn.Module):
    """EScAIP's force head of 33,408 parameters with the network before it, on given features of atoms and edges."""

    @nn.compact
    def __call__(self, x):
        return ForceHead(hidden=128, output_multiplier=1, name="force_head")(
            x["atoms"], x["edges"], x["direction"], False
        )


def force_head() -> None:
    """Seconds for all columns: ten rotations, closed forms, and closed forms in the range of the Hessians."""
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"atoms": (4, 20, 128), "edges": (4, 20, 19, 128), "direction": (4, 20, 19, 3)}
    x = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    params, y = Head().init(keys[3], x)["params"], jax.random.normal(keys[4], (4, 20, 3))
    model = {"only": ["force_head/weight", "force_head/network/*"]}

    def moments(params, x):
        return Head().apply({"params": params}, x)

    acts = {"atoms": es.trivial, "edges": es.trivial, "direction": es.vectors}
    sym = es.Symmetry(es.so3.haar(10), acts, es.vectors)
    ten = components(
        lambda p, x: force_algebra.forces(*moments(p, x)), params, sym, x, y, key=jax.random.key(1), **model
    )
    closed = head_components(moments, params, x, y, **model)
    within = head_range(closed)
    assert closed.n == 33_408
    directions = np.eye(BLOCK, closed.n)
    times = interleaved(
        ten=lambda: ten.products(ten.vector, directions), closed=lambda: closed.products(closed.vector, directions)
    )
    print("\n| columns | way | seconds for all columns |")
    print("|---|---|---|")
    for way, columns, took in (
        ("ten rotations", closed.n, times["ten"]),
        ("closed form", closed.n, times["closed"]),
        ("closed form, in their range", len(within.kept), times["closed"]),
    ):
        print(f"| {columns:,} | {way} | {took * columns / BLOCK:.0f} |", flush=True)


def both_gradients() -> None:
    print("\n| batch | K | time / K plain gradients | memory / one plain gradient |")
    print("|---|---|---|---|")
    model = CoordinateTransformer()
    positions, species = molecules(32)
    params = jax.jit(model.init)(jax.random.key(0), positions[:1], species[:1])
    acts = {"positions": es.vectors, "species": es.trivial}

    def apply(params, x):
        return model.apply(params, x["positions"], x["species"])

    for batch in (32, 8, 1):
        x, y = {"positions": positions[:batch], "species": species[:batch]}, positions[:batch]

        def plain(params, x, y):
            return jax.grad(lambda p: jnp.square(apply(p, x) - y).mean())(params)

        for measure in (es.so3.haar(10), es.so3.coset(12), es.so3.coset(60)):
            sym = es.Symmetry(measure, acts, es.vectors)

            def both(params, x, y, sym=sym, chunk=None):
                found = gradients(apply, params, sym, x, y, key=jax.random.key(0), chunk=chunk)
                return found.mean, found.equiv

            runs = {"plain": jax.jit(plain), "both": jax.jit(both)}
            t = interleaved(**{name: lambda run=run, x=x, y=y: run(params, x, y) for name, run in runs.items()})
            one = temporary_bytes(plain, params, x, y)
            memory = temporary_bytes(lambda p, x, y: both(p, x, y, chunk=1), params, x, y) / one
            k = measure.n_elements
            print(f"| {batch} | {k} | {t['both'] / (k * t['plain']):.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["hessians", "head", "gradients"]
    print(f"jax {jax.__version__}, {jax.devices()[0].platform} {jax.devices()[0].device_kind}")
    if "hessians" in wanted:
        hessians()
    if "head" in wanted:
        force_head()
    if "gradients" in wanted:
        both_gradients()
