"""Molecules as they are at a temperature: short Langevin dynamics on the MMFF94 force field of RDKit.

Cheap enough to run hundreds of steps for every frame that is then labelled by a better method, and close enough that
its frames are where that method would go: stiff bonds move little and soft torsions much, as independent random
displacements of atoms would not have it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import constants

from equiscale.data.force_units import ENERGIES

BOLTZMANN = constants.Boltzmann / constants.electron_volt  # eV/K
# One femtosecond in the unit of time that eV, angstrom and atomic mass units make.
FEMTOSECOND = 1e-15 * np.sqrt(constants.electron_volt / constants.atomic_mass) * 1e10

Positions = Float[np.ndarray, "n_atoms 3"]


def mmff_forces(compound, conformer: int = 0) -> Callable[[Positions], Positions]:
    """Forces in eV/angstrom of MMFF94 on an RDKit molecule, at positions in angstrom.

    The conformer is moved along. Raises ValueError for a molecule without MMFF94 parameters.
    """
    from rdkit.Chem import rdForceFieldHelpers

    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(compound)
    if properties is None:
        raise ValueError("the molecule has no MMFF94 parameters: use another one")
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(compound, properties, confId=conformer)
    moved = compound.GetConformer(conformer)

    def forces(positions: Positions) -> Positions:
        moved.SetPositions(positions)
        field.Initialize()  # without it, and with positions as an argument, RDKit goes on with the distances it has
        return -ENERGIES["kcal/mol"] * np.reshape(field.CalcGrad(), (-1, 3))

    return forces


def sample(
    forces: Callable[[Positions], Positions],
    positions: Positions,
    masses: Float[np.ndarray, " n_atoms"],
    temperatures: tuple[float, ...],
    count: int,
    rng: np.random.Generator,
    *,
    settle: int = 200,
    gap: int = 100,
    friction: float = 0.02,
    step: float = 1.0,
) -> Float[np.ndarray, "frames n_atoms 3"]:
    """`count` frames at each temperature in kelvin, one after the other, `settle` steps before the first of each and
    `gap` between them.

    `step` in femtoseconds, `friction` per femtosecond, masses in atomic mass units. BAOAB (Leimkuhler and Matthews,
    Applied Mathematics Research eXpress 2013, 34), whose positions are exact for a harmonic molecule at any step.
    """
    dt, masses = step * FEMTOSECOND, masses[:, None]
    keep = np.exp(-friction * step)
    velocities, force, found = np.zeros_like(positions), forces(positions), []
    for temperature in temperatures:
        kick = np.sqrt(BOLTZMANN * temperature / masses * (1 - keep**2))
        for steps in [settle] + [gap] * (count - 1):
            for _ in range(steps):
                velocities = velocities + dt / 2 * force / masses
                positions = positions + dt / 2 * velocities
                velocities = keep * velocities + kick * rng.standard_normal(positions.shape)
                positions = positions + dt / 2 * velocities
                force = forces(positions)
                velocities = velocities + dt / 2 * force / masses
            found.append(positions)
    return np.stack(found)
