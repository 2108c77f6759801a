"""Molecules per second of the voxeliser, against a plain scan of the soft-OR over atoms.

    python -m benchmarks.voxels

Batched and jitted, forward and with the gradient of a squared error in the coordinates, at 16^3 and 32^3 (QM9: 18
atoms, 5 channels) and 64^3 (GEOM-drugs: 45 atoms, 8 channels).
"""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from equiscale.data.voxels import GEOM_DRUGS, QM9, WIDTH, Grid, voxelise

CASES = ((Grid(16), 18, 32), (QM9, 18, 16), (GEOM_DRUGS, 45, 4))  # grid, atoms, molecules in a batch
REPEATS = 5


def scan(positions, species, grid):
    """1 - prod (1 - p_a), one atom after the other, differentiated automatically."""
    axis = jnp.asarray(grid.axis, positions.dtype)

    def step(vacancy, atom):
        r, z = atom
        x, y, w = jnp.exp(-(((axis - r[:, None]) / (WIDTH * grid.radius)) ** 2))
        density = x[:, None, None] * y[:, None] * w
        in_channel = z == jnp.array(grid.numbers)
        return vacancy * (1 - in_channel[:, None, None, None] * density), None

    return 1 - jax.lax.scan(step, jnp.ones(grid.shape, positions.dtype), (positions, species))[0]


def batch(grid, n_atoms, n_molecules):
    rng = np.random.default_rng(0)
    positions = rng.normal(0, grid.edge / 8, (n_molecules, n_atoms, 3)).astype(np.float32)
    species = rng.choice(grid.numbers[:4], (n_molecules, n_atoms)).astype(np.int32)
    return jnp.asarray(positions), jnp.asarray(species)


def rates(voxeliser, grid, positions, species) -> tuple[float, float]:
    """Molecules per second, forward and with the gradient: the best of a few runs, as a busy machine only slows."""
    forward = jax.jit(jax.vmap(lambda r, z: voxeliser(r, z, grid)))
    target = forward(positions, species) / 2
    gradient = jax.jit(jax.grad(lambda r, z: jnp.sum((forward(r, z) - target) ** 2)))

    def best(f):
        jax.block_until_ready(f(positions, species))
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            jax.block_until_ready(f(positions, species))
            seconds.append(time.perf_counter() - start)
        return len(positions) / min(seconds)

    return best(forward), best(gradient)


def main():
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores; molecules per second (times the scan's)")
    print(f"{'grid':>12} {'atoms':>6} {'batch':>6} {'forward':>20} {'with gradient':>20}")
    for grid, n_atoms, n_molecules in CASES:
        positions, species = batch(grid, n_atoms, n_molecules)
        pairs = zip(*(rates(f, grid, positions, species) for f in (voxelise, scan)), strict=True)
        columns = " ".join(f"{f'{ours:,.0f} ({ours / theirs:.1f}x)':>20}" for ours, theirs in pairs)
        print(f"{f'{len(grid.elements)} x {grid.length}^3':>12} {n_atoms:>6} {n_molecules:>6} {columns}")


if __name__ == "__main__":
    main()
