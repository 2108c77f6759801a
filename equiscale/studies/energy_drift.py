"""What equivariance error does to the energy of molecular dynamics, and what twirling at test time mends."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

from equiscale.data.element_references import Scale
from equiscale.data.force_frames import ForceRecord
from equiscale.data.graphs import within
from equiscale.data.readers import import_ase
from equiscale.sampling.dynamics import Trajectory, constant_energy, drift, thermal_velocities

Label = Callable[[Sequence[ForceRecord]], Float[np.ndarray, " n"]]


class Start(NamedTuple):
    """Where trajectories begin: positions [n, atoms, 3] in angstrom, species [n, atoms], masses and velocities."""

    positions: np.ndarray
    species: np.ndarray
    masses: np.ndarray
    velocities: np.ndarray


def begin(positions: np.ndarray, species: np.ndarray, temperature: float, seed: int) -> Start:
    """Molecules at rest as a whole, with Maxwell's velocities at `temperature` kelvin; masses are ASE's."""
    masses = np.where(species > 0, import_ase().data.atomic_masses[species], 0).astype(np.float32)
    velocities = thermal_velocities(jax.random.key(seed), masses, temperature)
    return Start(np.asarray(positions), np.asarray(species), masses, np.asarray(velocities))


def run(
    model: nn.Module, params: Any, scale: Scale, start: Start, *, k: int, cutoff: float, step: float, n_frames: int,
    stride: int,
) -> Trajectory:  # fmt: skip
    """Dynamics of a force field at constant energy, host arrays; its neighbours are found anew in every step."""

    def forces(x):
        found = model.apply({"params": params}, within(x, start.species, k, cutoff))
        return scale.std * found.energy, scale.force_std * found.forces

    settings = {"step": step, "n_frames": n_frames, "stride": stride}
    simulate = jax.jit(lambda *state: constant_energy(forces, *state, **settings))
    return jax.device_get(simulate(start.positions, start.velocities, start.masses))


def statistics(trajectory: Trajectory, start: Start, label: Label | None = None) -> dict[str, Any]:
    """Drift of kinetic plus predicted energy in meV per atom and picosecond, over molecules that stayed whole.

    `drift` is the mean of its size, `heating` the mean of its sign and size, each with a standard error over molecules;
    `lost` counts molecules whose numbers did not stay finite or that flew apart to over 10 times their extent. With
    `label`, energies of the frames visited, `drift_true` and `heating_true` are those of kinetic plus true energy.
    """
    n_atoms = (start.species > 0).sum(1)
    extent = np.abs(start.positions).max((1, 2))
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(trajectory.positions).all((0, 2, 3)) & (
            np.abs(trajectory.positions).max((0, 2, 3)) < 10 * extent
        )
    found: dict[str, Any] = {"molecules": len(whole), "lost": int((~whole).sum())}
    energies = {"": trajectory.potential + trajectory.kinetic}
    if label is not None and whole.any():
        true = np.full_like(energies[""], np.nan, dtype=float)
        rows = np.flatnonzero(whole)
        frames = [_record(start, trajectory, t, i) for t in range(len(true)) for i in rows]
        true[:, rows] = label(frames).reshape(len(true), len(rows))
        energies["_true"] = true + trajectory.kinetic
    for name, energy in energies.items():
        slope, finite = (np.asarray(a) for a in drift(trajectory.time, energy))
        per_atom = 1e3 * slope[finite & whole] / n_atoms[finite & whole]
        n = len(per_atom)
        for kind, values in (("drift", np.abs(per_atom)), ("heating", per_atom)):
            found[f"{kind}{name}"] = float(values.mean()) if n else None
            found[f"{kind}{name}_stderr"] = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return found


def _record(start: Start, trajectory: Trajectory, t: int, i: int) -> ForceRecord:
    real = start.species[i] > 0
    return ForceRecord(f"molecule {i} at frame {t}", str(i), start.species[i, real], trajectory.positions[t, i, real])


def mean_energy(trajectory: Trajectory, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Kinetic plus potential energy per atom since the start, meV, mean and standard error over molecules, each [t]."""
    energy = 1e3 * (trajectory.potential + trajectory.kinetic) / (start.species > 0).sum(1)
    change = energy - energy[0]
    change = change[:, np.isfinite(change).all(0)]
    return change.mean(1), change.std(1, ddof=1) / np.sqrt(max(change.shape[1], 1))
