"""Energies of elements, and the scale that energies and forces are learned on.

Total energies are huge and almost the sum of their atoms'. Taking off a constant for each element leaves what a model
has to learn; the rest is standardised as one number per frame, extensive as it is, as EScAIP's recipe does.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from equiscale.data.force_frames import ForceFrames
from equiscale.data.molecules import SYMBOLS, atomic_number


class References(NamedTuple):
    """Energies of elements in eV, float64 [119] by atomic number, zero where unknown.

    `elements` are the atomic numbers they were fitted to, `rank` how many of them the compositions tell apart: where it
    is smaller, the sums are fitted as well as ever and the single energies are only those of least square sum.
    `residual` is the root mean square of what they leave of the energies fitted to, in eV per frame.
    """

    energies: np.ndarray
    elements: tuple[int, ...]
    rank: int
    residual: float

    def __str__(self) -> str:
        listed = ", ".join(f"{SYMBOLS[z]} {self.energies[z]:.3f}" for z in self.elements)
        tied = f"; only {self.rank} of {len(self.elements)} told apart" if self.rank < len(self.elements) else ""
        return f"{listed} eV, leaving {self.residual:.3f} eV RMS{tied}"

    def total(self, species: Int[np.ndarray, "n max_atoms"]) -> Float[np.ndarray, " n"]:
        """Sum over the atoms of each frame, eV, float64. Raises ValueError naming an element without a reference."""
        unknown = set(np.unique(species[species > 0]).tolist()) - set(self.elements)
        if unknown:
            names = ", ".join(SYMBOLS[z] for z in sorted(unknown))
            raise ValueError(f"no reference energy of {names}: fit to frames that hold them, or leave these out")
        return self.energies[species].sum(axis=1)


def fit_references(parts: Iterable[tuple[Int[np.ndarray, "n max_atoms"], Float[np.ndarray, " n"]]]) -> References:
    """Least squares of energies [n] in eV on the number of atoms of each element; fit it to training frames only.

    Frames come in parts, as many as there are, of which only a triangular factor of the equations is kept. The solution
    is that of least norm where compositions do not tell elements apart, as in one molecule's frames.
    Raises ValueError without a frame.
    """
    n_elements, n = len(SYMBOLS), 0
    factor = np.zeros((0, n_elements))  # of numbers of atoms, and of energies in its last column
    for species, energies in parts:
        counts = np.stack([np.count_nonzero(species == z, axis=1) for z in range(1, n_elements)], axis=1)
        factor = np.linalg.qr(np.vstack([factor, np.column_stack([counts, energies])]), mode="r")
        n += len(species)
    if not n:
        raise ValueError("no frame to fit element references to: give the training frames")
    used = np.flatnonzero(np.any(factor[:, :-1], axis=0))
    solution, _, rank, _ = np.linalg.lstsq(factor[:, used], factor[:, -1])
    elements = used + 1
    by_number = np.zeros(n_elements)
    by_number[elements] = solution
    residual = np.linalg.norm(factor[:, -1] - factor[:, used] @ solution) / np.sqrt(n)
    return References(by_number, tuple(elements.tolist()), int(rank), float(residual))


def known_references(by_symbol: Mapping[str, float]) -> References:
    """References taken from elsewhere, such as isolated atoms', in eV; they have no residual (nan)."""
    energies = np.zeros(len(SYMBOLS))
    for symbol, energy in by_symbol.items():
        energies[atomic_number(symbol)] = energy
    elements = tuple(sorted(map(atomic_number, by_symbol)))
    return References(energies, elements, len(elements), float("nan"))


class Scale(NamedTuple):
    """How labels are standardised: energies less `references`, `mean` and over `std`, forces over `force_std`.

    All in eV and eV/angstrom; energies are one number per frame, forces have mean zero. A model of standardised
    energies whose forces are its gradient owes them a factor `std / force_std`.
    """

    references: References
    mean: float
    std: float
    force_std: float

    def record(self) -> dict[str, Any]:
        """Plain numbers, from which `read_scale` makes it again."""
        listed = {SYMBOLS[z]: float(self.references.energies[z]) for z in self.references.elements}
        return {"references": listed, "mean": self.mean, "std": self.std, "force_std": self.force_std}

    def energies(self, energies: np.ndarray, species: np.ndarray) -> np.ndarray:
        """Standardised, float64 [n], from eV [n]."""
        return (energies - self.references.total(species) - self.mean) / self.std

    def total_energies(self, standardised: np.ndarray, species: np.ndarray) -> np.ndarray:
        """The way back, in eV, float64 [n]."""
        return np.asarray(standardised, float) * self.std + self.mean + self.references.total(species)

    def forces(self, forces: np.ndarray) -> np.ndarray:
        """Standardised, from eV/angstrom, in their dtype."""
        return forces / np.asarray(self.force_std, forces.dtype)


def read_scale(record: Mapping[str, Any]) -> Scale:
    """The scale of a `Scale.record`."""
    numbers = {name: record[name] for name in ("mean", "std", "force_std")}
    return Scale(known_references(record["references"]), **numbers)


def fit_scale(frames: ForceFrames, references: References | None = None) -> Scale:
    """The scale of training frames, with references fitted to them by default.

    Forces count by component, of atoms that were free to move. Raises ValueError where energies or forces do not vary.
    """
    references = references or fit_references([(frames.species, frames.energies)])
    left = frames.energies - references.total(frames.species)
    free = (frames.species > 0) & ~frames.fixed
    force_std = float(np.sqrt(np.mean(np.square(frames.forces[free], dtype=float)))) if free.any() else 0.0
    if not left.std() > 1e-9 or not force_std > 0:
        raise ValueError(
            f"energies vary by {left.std():.3g} eV beside their elements' and forces by {force_std:.3g} eV/angstrom in "
            f"{len(frames)} frames: give frames of several geometries"
        )
    return Scale(references, float(left.mean()), float(left.std()), force_std)
