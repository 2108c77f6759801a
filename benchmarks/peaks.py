"""From conformers to voxels and back: molecules per second of each stage, and how far the atoms come back off.

    python -m benchmarks.peaks                     # 64 compounds of the embedded NCI list: about half a minute
    python -m benchmarks.peaks --molecules=500 --batch=16
    python -m benchmarks.peaks --archive=conformers.tar.xz --molecules=0     # every MDL mol file of a tar archive

On the published grid, 64 voxels of 0.25 angstrom with 8 elements. Molecules are centred and lie as they come; those
that keep less than 1 angstrom from a face of the grid or hold another element are left out and counted.
"""

import argparse
import dataclasses
import os
import tarfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from equiscale.data import nci
from equiscale.data.molecules import Molecules, from_records_skipping
from equiscale.data.peaks import STEPS, Found, find_atoms
from equiscale.data.voxels import GEOM_DRUGS, centre, check_fits, voxelise

REPEATS = 3


def mol_files(path, limit) -> Molecules:
    """The MDL mol files (V2000) of a tar archive, spread over the archive where there are more than `limit`."""
    records = []
    with tarfile.open(path) as archive:
        texts = {m.name: archive.extractfile(m).read().decode() for m in archive if m.name.endswith(".mol")}
    for name in list(texts)[:: max(1, len(texts) // limit) if limit else 1][: limit or None]:
        lines = texts[name].splitlines()
        header = next(i for i, line in enumerate(lines) if line.rstrip().endswith("V2000"))
        rows = [line.split() for line in lines[header + 1 : header + 1 + int(lines[header][:3])]]
        records.append((name, [row[3] for row in rows], [row[:3] for row in rows]))
    molecules, report = from_records_skipping(records, os.path.basename(path))
    print(f"{molecules.source}: {report}")
    return molecules


def errors(molecules: Molecules, found: Found) -> tuple[int, np.ndarray]:
    """Molecules with other elements than they had, and each atom's distance to the nearest of its element [atoms].

    Rows found beyond the molecules only fill up a batch.
    """
    wrong, distances = 0, []
    positions, species = (np.asarray(a)[: len(molecules)] for a in (found.positions, found.species))
    for xyz, z, xyz_found, z_found in zip(molecules.positions, molecules.species, positions, species, strict=True):
        xyz, z, xyz_found, z_found = xyz[z > 0], z[z > 0], xyz_found[z_found > 0], z_found[z_found > 0]
        if sorted(z) != sorted(z_found):
            wrong += 1
        else:
            apart = np.linalg.norm(xyz[:, None] - xyz_found, axis=-1) + np.where(z[:, None] == z_found, 0, np.inf)
            distances.append(apart.min(axis=1))
    return wrong, np.concatenate(distances or [np.zeros(0)])


def best(f, *arguments) -> float:
    """Seconds, the least of a few runs, as a busy machine only slows."""
    jax.block_until_ready(f(*arguments))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(f(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=64, help="0 for all")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--archive", help="a tar of MDL mol files instead of the NCI list")
    wanted = parser.parse_args()
    grid, limit = GEOM_DRUGS, wanted.molecules or None
    molecules = mol_files(wanted.archive, limit) if wanted.archive else nci.load(grid.elements, limit=limit)[0]
    molecules = dataclasses.replace(
        molecules, positions=np.asarray(centre(molecules.positions, molecules.species), np.float32)
    )
    fits, report = check_fits(molecules, grid, any_rotation=False)
    print(f"{molecules.source}: {report}")
    molecules = molecules.subset(fits)
    max_atoms = molecules.species.shape[1]

    forward = jax.jit(jax.vmap(lambda r, z: voxelise(r, z, grid)))
    stages = {
        "voxelise": lambda r, z, v: forward(r, z),
        "peaks and first guess": lambda r, z, v: find_atoms(v, grid, max_atoms=max_atoms, steps=0),
        "peaks and fit": lambda r, z, v: find_atoms(v, grid, max_atoms=max_atoms, steps=STEPS),
    }
    wrong, distances = dict.fromkeys(stages, 0), {name: [] for name in stages}
    for first in range(0, len(molecules), wanted.batch):
        rows = np.arange(first, first + wanted.batch) % len(molecules)  # the last batch filled up: one shape
        n = min(wanted.batch, len(molecules) - first)
        some = molecules.subset(rows)
        batch = jnp.asarray(some.positions), jnp.asarray(some.species)
        batch = (*batch, forward(*batch))
        if first == 0:
            seconds = {name: best(stage, *batch) for name, stage in stages.items()}
        for name in list(stages)[1:]:
            count, off = errors(some.subset(range(n)), stages[name](*batch))
            wrong[name] += count
            distances[name].append(off)

    print(
        f"\n{jax.devices()[0].device_kind}, {os.cpu_count()} cores, batch {wanted.batch}, {max_atoms} atoms at most\n"
    )
    print("| stage | molecules/s | wrong elements or counts | RMS error (angstrom) | max error (angstrom) |")
    print("|---|---|---|---|---|")
    for name in stages:
        off = np.concatenate(distances[name] or [np.zeros(0)])
        figures = f"{wrong[name]} | {np.sqrt(np.mean(off**2)):.1e} | {off.max():.1e}" if len(off) else "- | - | -"
        print(f"| {name} | {wanted.batch / seconds[name]:.1f} | {figures} |")


if __name__ == "__main__":
    main()
