"""Labelled frames for tests: springs between atoms, whose energies and forces are known, and no chemistry."""

import numpy as np

from equiscale.data.force_frames import ForceRecord

ELEMENTS = np.array([8, 6, 1, 1])


def springs(xyz, stiffness=5.0, length=1.5):
    """Energy in eV and forces in eV/angstrom of springs between all pairs of atoms."""
    apart = xyz[:, None] - xyz
    distance = np.linalg.norm(apart, axis=-1) + np.eye(len(xyz)) * length
    pull = -stiffness * (distance - length) / distance
    return float(stiffness / 4 * np.sum((distance - length) ** 2)), np.sum(pull[..., None] * apart, axis=1)


def record(seed=0, group="a", **changes):
    xyz = np.random.default_rng(seed).normal(size=(4, 3))
    energy, forces = springs(xyz)
    made = ForceRecord(f"frame {seed} of {group}", group, ELEMENTS, xyz, energy - 100, forces)
    return made._replace(**changes)


def water(seed=0):
    """A smaller molecule of other elements."""
    xyz = np.random.default_rng(seed).normal(size=(3, 3))
    energy, forces = springs(xyz)
    return ForceRecord(f"water {seed}", "water", np.array([8, 1, 1]), xyz, energy - 70, forces)
