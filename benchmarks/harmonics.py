"""Spherical harmonics of edges, and their gradient, against e3nn_jax: seconds to trace and to compile, time of a call.

    python -m benchmarks.harmonics                   # degrees 2, 3, 4 and 6: under a minute on 2 cores
    python -m benchmarks.harmonics --degrees=10      # some minutes, all but seconds of it e3nn_jax's

Of 4,320 vectors in float32. e3nn_jax with the algorithm of its own that compiles fastest.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.turns import seconds
from equiscale.models import e3nn
from equiscale.solid_harmonics import solid_harmonics


def e3nn_harmonics(x, degree):
    irreps = e3nn.Irreps.spherical_harmonics(degree)
    settings = {"normalize": False, "normalization": "integral", "algorithm": ("recursive", "dense", "custom_jvp")}
    return e3nn.spherical_harmonics(irreps, e3nn.IrrepsArray("1o", x), **settings).array


def compare(degree: int, turns: int) -> None:
    """Two lines: values, and the gradient of the sum of their squares."""
    x = jax.random.normal(jax.random.key(0), (4_320, 3))
    ways = {"ours": partial(solid_harmonics, degree=degree), "e3nn": partial(e3nn_harmonics, degree=degree)}
    for what in ("values", "gradient"):
        traced, compiled, runs = {}, {}, {}
        for way, f in ways.items():
            of = f if what == "values" else jax.grad(lambda x, f=f: jnp.square(f(x)).sum())
            began = time.perf_counter()
            lowered = jax.jit(of).lower(x)
            traced[way] = time.perf_counter() - began
            program = lowered.compile()
            compiled[way] = time.perf_counter() - began - traced[way]
            runs[way] = partial(program, x)
        times = seconds(runs, turns)
        row = "".join(f" | {traced[w]:.2f} | {compiled[w]:.2f} | {1e6 * times[w]:.0f}" for w in ways)
        print(f"| {degree} | {what}{row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degrees", default="2,3,4,6")
    parser.add_argument("--turns", type=int, default=51)
    wanted = parser.parse_args()
    e3nn_harmonics(jnp.ones((1, 3)), 1)  # what it loads the first time is none of a degree's
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}\n")
    print("| degree | | ours: trace, s | compile, s | call, us | e3nn_jax: trace, s | compile, s | call, us |")
    print("|---|---|---|---|---|---|---|---|")
    for degree in map(int, wanted.degrees.split(",")):
        compare(degree, wanted.turns)


if __name__ == "__main__":
    main()
