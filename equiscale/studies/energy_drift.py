"""What equivariance error does to the energy of molecular dynamics, and what twirling at test time mends."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from equiscale.data.element_references import Scale
from equiscale.data.force_frames import ForceRecord
from equiscale.data.graphs import within
from equiscale.data.readers import import_ase
from equiscale.sampling.dynamics import Trajectory, constant_energy, drift, thermal_velocities
from equiscale.studies.figures import COLOURS

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


def drift_figure(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, tuple], title: str) -> Figure:
    """Energy since the start of each arm with two standard errors, and the size of its drift over its percent."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, (time, mean, error)) in zip(COLOURS, curves.items(), strict=False):
        left.plot(time / 1e3, mean, color=colour, label=name)
        left.fill_between(time / 1e3, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, linewidth=0)
    left.set_yscale("symlog", linthresh=1)
    left.set_xlabel("time, ps")
    left.set_ylabel("kinetic + predicted energy since the start, meV/atom")
    left.grid(alpha=0.25)
    left.legend(fontsize=8)
    shown = [row for row in rows if row["drift"] is not None]
    smallest = min((row["percent"] for row in shown if row["percent"] > 1e-3), default=1e-3) / 10
    for colour, row in zip(COLOURS, rows, strict=False):
        if row["drift"] is None:
            continue
        exact = row["percent"] <= 1e-3
        for suffix, marker in (("", "o"), ("_true", "s")):
            value = row.get(f"drift{suffix}")
            if value is not None:
                error = 2 * (row[f"drift{suffix}_stderr"] or 0)
                x = smallest if exact else row["percent"]
                right.errorbar(x, value, yerr=min(error, 0.9 * value), fmt=marker, color=colour)
        right.annotate(row["arm"] + (" (0 %)" if exact else ""), (smallest if exact else row["percent"], row["drift"]),
                       xytext=(5, 5), textcoords="offset points", fontsize=8)  # fmt: skip
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("% of the force loss that is equivariance error")
    right.set_ylabel("size of the drift, meV/atom/ps")
    right.plot([], [], "ko", label="of kinetic + predicted energy")
    if any(row.get("drift_true") is not None for row in rows):
        right.plot([], [], "ks", label="of kinetic + true energy")
    right.legend(fontsize=8, loc="lower right")
    right.grid(alpha=0.25)
    figure.suptitle(title, fontsize=10)
    return figure


def drift_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal, a line an arm."""

    def cell(row, name):
        value, error = row.get(name), row.get(f"{name}_stderr")
        return "-" if value is None else f"{value:.3g} ± {2 * error:.1g}" if error is not None else f"{value:.3g}"

    columns = {"percent": "% equiv", "force_mae": "force MAE", "drift": "drift", "heating": "heating"}
    if any("drift_true" in row for row in rows):
        columns |= {"drift_true": "true drift", "heating_true": "true heating"}
    lines = ["".join([f"{'':>16}", *(f"{title:>18}" for title in columns.values()), f"{'lost':>8}"])]
    lines += [
        "".join([f"{row['arm']:>16}", *(f"{cell(row, name):>18}" for name in columns), f"{row['lost']:>8}"])
        for row in rows
    ]
    return "\n".join(lines)
