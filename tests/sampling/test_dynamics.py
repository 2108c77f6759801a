"""Dynamics at constant energy: springs keep it, an oscillator has its period, and a force that does work heats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.data.graphs import within
from equiscale.data.neighbours import build
from equiscale.data.thermal import BOLTZMANN, FEMTOSECOND
from equiscale.sampling.dynamics import constant_energy, drift, thermal_velocities

MASSES = jnp.array([[12.0, 16.0, 1.0], [12.0, 1.0, 0.0]])
POSITIONS = jnp.array([[[0.0, 0, 0], [1.3, 0, 0], [0, 1.1, 0]], [[0, 0, 0], [0, 0, 1.2], [0, 0, 0]]])


def springs(x, stiffness=20.0, length=1.2):
    """Between all pairs of real atoms."""
    real = MASSES > 0
    pairs = real[:, :, None] & real[:, None] & ~jnp.eye(3, dtype=bool)

    def energy(x):
        apart = jnp.where(pairs[..., None], x[:, :, None] - x[:, None], 1.0)
        stretch = jnp.linalg.norm(apart, axis=-1) - length
        return stiffness / 4 * jnp.where(pairs, stretch**2, 0).sum((1, 2))

    return energy(x), -jax.grad(lambda x: energy(x).sum())(x)


def simulate(forces, step=0.25, n_frames=40, stride=10, temperature=300.0):
    v = thermal_velocities(jax.random.key(0), MASSES, temperature)
    run = jax.jit(lambda x, v: constant_energy(forces, x, v, MASSES, step=step, n_frames=n_frames, stride=stride))
    return run(POSITIONS, v)


def test_velocities_have_their_temperature_and_no_motion_of_the_whole():
    masses = jnp.tile(jnp.array([12.0, 1.0, 16.0, 1.0, 0.0]), (20_000, 1))
    v = thermal_velocities(jax.random.key(0), masses, 500.0)
    np.testing.assert_allclose((masses[..., None] * v).sum(1), 0, atol=1e-4)
    kinetic = 0.5 * (masses[..., None] * v**2).sum((1, 2)).mean()
    assert kinetic == pytest.approx(1.5 * 3 * BOLTZMANN * 500, rel=0.02), "3 of 4 atoms' freedoms are left"
    assert not v[:, 4].any()


def test_springs_keep_their_energy_to_second_order_in_the_step():
    errors = []
    for step in (1.0, 0.5):
        found = simulate(springs, step=step, n_frames=20, stride=round(10 / step))
        energy = found.potential + found.kinetic
        errors.append(float(jnp.abs(energy - energy[0]).max()))
        assert found.time[-1] == 200 and found.positions.shape == (21, 2, 3, 3)
    assert errors[0] < 0.1 and errors[1] < 0.4 * errors[0]
    slope, finite = drift(found.time, energy)
    assert finite.all() and jnp.abs(slope).max() < 0.1


def test_a_diatomic_swings_with_its_period():
    """Two atoms on a spring: omega^2 = k (1/m + 1/m')."""
    omega = np.sqrt(20.0 * (1 / 12 + 1))
    period = 2 * np.pi / omega / FEMTOSECOND
    v = jnp.zeros_like(POSITIONS)
    x = POSITIONS.at[1, 1, 2].set(1.25)
    run = jax.jit(lambda x, v: constant_energy(springs, x, v, MASSES, step=period / 200, n_frames=2, stride=100))
    length = jnp.linalg.norm(run(x, v).positions[:, 1, 0] - run(x, v).positions[:, 1, 1], axis=-1)
    np.testing.assert_allclose(length, [1.25, 1.15, 1.25], atol=1e-3)


def test_a_force_that_does_work_on_closed_paths_heats_and_its_rate_is_the_slope():
    def pushed(x):
        energy, f = springs(x)
        return energy, f + 0.005 * MASSES[..., None] * jnp.array([1.0, 0, 0])

    still = simulate(pushed, temperature=0.0)
    energy = still.potential + still.kinetic
    # As a weight would: every atom is accelerated alike, and the whole gains m (a t)^2 / 2.
    gained = MASSES.sum(1) * (0.005 * still.time[-1] * FEMTOSECOND) ** 2 / 2
    np.testing.assert_allclose(energy[-1] - energy[0], gained, rtol=2e-2)
    slope, finite = drift(still.time, energy)
    assert finite.all() and (slope > 0).all()


def test_slopes_are_those_of_lines_and_runaways_are_told():
    time = jnp.arange(5) * 10.0
    energy = jnp.stack([3 + 2e-3 * time, jnp.where(time > 20, jnp.nan, time)], -1)
    slope, finite = drift(time, energy)
    assert slope[0] == pytest.approx(2.0, rel=1e-5) and finite.tolist() == [True, False]


@pytest.mark.parametrize("k", [2, 4, 9])
def test_neighbours_on_the_device_are_those_of_the_host(k):
    rng = np.random.default_rng(0)
    positions = rng.normal(scale=1.5, size=(3, 6, 3)).astype(np.float32)
    species = np.array([[6, 1, 1, 8, 7, 1], [6, 8, 1, 0, 0, 0], [8, 0, 0, 0, 0, 0]])
    wanted, _ = build(positions, species, k=k, cutoff=2.5)
    found = jax.jit(lambda x: within(x, species, k, 2.5))(positions)
    real = (species > 0)[..., None]
    np.testing.assert_array_equal(found.mask & real, wanted.mask)
    np.testing.assert_array_equal(
        jnp.where(wanted.mask, found.neighbours, 0), np.where(wanted.mask, wanted.neighbours, 0)
    )
    assert not (found.mask & ~real).any() and found.shifts.shape == wanted.shifts.shape
