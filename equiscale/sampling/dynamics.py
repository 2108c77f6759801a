"""Molecular dynamics at constant energy, many molecules at once: what a force field's errors do to the energy.

Exact forces of a potential keep kinetic plus potential energy, up to the integrator's own error, which is bounded.
Forces that are no gradient, or that turn wrongly when the molecule does, do work on closed paths: energy drifts.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from equiscale.data.thermal import BOLTZMANN, FEMTOSECOND

Positions = Float[Array, "batch atoms 3"]
Forces = Callable[[Positions], tuple[Float[Array, " batch"], Positions]]


class Trajectory(NamedTuple):
    """Frames at equal intervals, the start first: time [t] in femtoseconds, energies [t, batch] in eV, positions."""

    time: Float[Array, " t"]
    potential: Float[Array, "t batch"]
    kinetic: Float[Array, "t batch"]
    positions: Float[Array, "t batch atoms 3"]


def thermal_velocities(
    key: PRNGKeyArray, masses: Float[Array, "batch atoms"], temperature: float
) -> Float[Array, "batch atoms 3"]:
    """Maxwell's velocities at a temperature in kelvin, in angstrom per unit of time, without motion of the whole.

    Masses are in atomic mass units, 0 where there is no atom.
    """
    real = masses > 0
    scale = jnp.sqrt(BOLTZMANN * temperature / jnp.where(real, masses, 1))
    v = jnp.where(real[..., None], scale[..., None] * jax.random.normal(key, (*masses.shape, 3)), 0)
    drift = (masses[..., None] * v).sum(1, keepdims=True) / masses.sum(1)[:, None, None]
    return jnp.where(real[..., None], v - drift, 0)


def constant_energy(
    forces: Forces,
    positions: Positions,
    velocities: Positions,
    masses: Float[Array, "batch atoms"],
    *,
    step: float,
    n_frames: int,
    stride: int,
) -> Trajectory:
    """Velocity Verlet with `step` femtoseconds; `n_frames` after the start, `stride` steps apart. Compiled as a whole.

    `forces` gives energies in eV and forces in eV/angstrom. Where they run away the numbers become infinite or NaN, of
    that molecule alone.
    """
    dt = step * FEMTOSECOND
    real = (masses > 0)[..., None]
    inverse = jnp.where(real, 1 / jnp.where(real, masses[..., None], 1), 0)

    def one(state, _):
        x, v, f, _ = state
        v = v + 0.5 * dt * inverse * f
        x = x + dt * v
        energy, f = forces(x)
        return (x, v + 0.5 * dt * inverse * f, f, energy), None

    def kinetic(v):
        return 0.5 * (masses[..., None] * jnp.square(v)).sum((1, 2))

    def frame(state, _):
        state, _ = jax.lax.scan(one, state, length=stride)
        x, v, _, energy = state
        return state, (energy, kinetic(v), x)

    energy, f = forces(positions)
    _, later = jax.lax.scan(frame, (positions, velocities, f, energy), length=n_frames)
    start = energy, kinetic(velocities), positions
    potential, moving, x = (jnp.concatenate([a[None], b]) for a, b in zip(start, later, strict=True))
    return Trajectory(step * stride * jnp.arange(n_frames + 1), potential, moving, x)


def drift(
    time: Float[Array, " t"], energy: Float[Array, "t batch"]
) -> tuple[Float[Array, " batch"], Bool[Array, " batch"]]:
    """The least-squares slope of each energy in eV per picosecond, and of which it is one: those that stayed finite."""
    finite = jnp.isfinite(energy).all(0)
    t = (time - time.mean()) / 1e3
    slope = (t[:, None] * jnp.where(finite, energy - energy.mean(0), 0)).sum(0) / jnp.square(t).sum()
    return slope, finite
