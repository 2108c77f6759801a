"""What is counted in each of a set of molecules, so that any weighting of them gives any metric at once."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from equiscale.data.chemistry import perceive, sanitised
from equiscale.data.molecules import SYMBOLS, Molecules, Skipped
from equiscale.data.properties import OF_BONDS, of_bonds

N_ELEMENTS = len(SYMBOLS)
BOND_TYPES = ("none", "single", "double", "triple")  # of a pair of atoms
PROPERTIES = tuple(OF_BONDS)
# The valences of a stable atom by element and formal charge, as published with MiDi (arXiv 2302.09048, its code's
# `allowed_bonds`); a charge that is not here counts as 0. S has no 4: sulfoxides are unstable there, and here.
STABLE_VALENCES = {
    "H": {0: (1,), 1: (0,), -1: (0,)},
    "C": {0: (3, 4), 1: (3,), -1: (3,)},
    "N": {0: (2, 3), 1: (2, 3, 4), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,), -1: (0,)},
    "B": {0: (3,)},
    "Al": {0: (3,)},
    "Si": {0: (4,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 6), 1: (2, 3), 2: (4,), 3: (5,), -1: (3,)},
    "Cl": {0: (1,)},
    "As": {0: (3,)},
    "Br": {0: (1,), 1: (2,)},
    "I": {0: (1,)},
    "Hg": {0: (1, 2)},
    "Bi": {0: (3, 5)},
    "Se": {0: (2, 4, 6)},
}


class Sample(NamedTuple):
    """Values of a kind (an element's number, a bond type) in the molecules of a set: three arrays of one length."""

    molecule: Int[np.ndarray, " m"]
    kind: Int[np.ndarray, " m"]
    value: Float[np.ndarray, " m"]

    def of(self, kind: int) -> "Sample":
        """Those of one kind."""
        return Sample(*(array[self.kind == kind] for array in self))


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Of n molecules, one row each; what `perceive` gave none for has its atoms counted and nothing else.

    `n_atoms` and `n_stable` atoms; `n_fragments` connected parts, 0 where not known; `smiles` canonical and without
    stereochemistry of the largest part where that passes sanitisation, else None; `elements` atoms by atomic number,
    `bonds` pairs of atoms by `BOND_TYPES`; samples of `valences` (sums of bond orders) and bond `angles` (degrees) by
    the atomic number of the atom or of the central one, of bond `lengths` (angstrom) by bond type; `properties` by
    name, NaN where `smiles` is None: Crippen's logP, TPSA (square angstrom), weight (g/mol) and the other names.
    `report` says for how many no bonds could be perceived.
    """

    n_atoms: Int[np.ndarray, " n"]
    n_stable: Int[np.ndarray, " n"]
    n_fragments: Int[np.ndarray, " n"]
    smiles: tuple[str | None, ...]
    elements: Int[np.ndarray, "n elements"]
    bonds: Int[np.ndarray, "n 4"]
    valences: Sample
    lengths: Sample
    angles: Sample
    properties: dict[str, Float[np.ndarray, " n"]]
    report: Skipped

    def __len__(self) -> int:
        return len(self.smiles)

    @functools.cached_property
    def valid(self) -> Bool[np.ndarray, " n"]:
        """Whether the largest part passes sanitisation."""
        return np.array([smiles is not None for smiles in self.smiles], bool)


def statistics(molecules: Molecules, *, workers: int | None = None) -> Statistics:
    """Perceives the bonds of molecules and counts what the metrics are made of; an empty set is one, too.

    Raises ImportError without RDKit.
    """
    return of_perceived(molecules, *perceive(molecules, workers=workers))


def of_perceived(molecules: Molecules, perceived: list, report: Skipped) -> Statistics:
    """`statistics` of molecules whose bonds are perceived: RDKit's Kekule structures or None, one each."""
    rows = [_counted(mol, species[species != 0]) for mol, species in zip(perceived, molecules.species, strict=True)]

    def samples(name):
        parts = [(i, row[name]) for i, row in enumerate(rows) if len(row[name])]
        index = np.repeat([i for i, _ in parts], [len(pairs) for _, pairs in parts]).astype(int)
        kind, value = np.concatenate([np.zeros((0, 2)), *(pairs for _, pairs in parts)]).T
        return Sample(index, kind.astype(int), value)

    def column(name, *shape):
        return np.array([row[name] for row in rows], int).reshape(len(rows), *shape)

    return Statistics(
        n_atoms=column("n_atoms"),
        n_stable=column("n_stable"),
        n_fragments=column("n_fragments"),
        smiles=tuple(row["smiles"] for row in rows),
        elements=column("elements", N_ELEMENTS),
        bonds=column("bonds", len(BOND_TYPES)),
        valences=samples("valences"),
        lengths=samples("lengths"),
        angles=samples("angles"),
        properties={name: np.array([row.get(name, np.nan) for row in rows], float) for name in PROPERTIES},
        report=report,
    )


def is_stable(number: int, charge: int, valence: int) -> bool:
    """Whether an atom of that atomic number and charge may have that valence, by `STABLE_VALENCES`."""
    by_charge = STABLE_VALENCES.get(SYMBOLS[number], {})
    return valence in by_charge.get(charge, by_charge.get(0, ()))


def _counted(molecule, numbers: Int[np.ndarray, " atoms"]) -> dict[str, Any]:
    """One molecule's row of `Statistics`; of samples, pairs of kind and value [m, 2]."""
    nothing = np.zeros((0, 2))
    elements = np.bincount(numbers[(numbers > 0) & (numbers < N_ELEMENTS)], minlength=N_ELEMENTS)
    row = {"n_atoms": len(numbers), "n_stable": 0, "n_fragments": 0, "smiles": None, "elements": elements}
    row |= {"bonds": np.zeros(len(BOND_TYPES)), "valences": nothing, "lengths": nothing, "angles": nothing}
    if molecule is None:
        return row
    xyz = molecule.GetConformer().GetPositions()
    orders = np.zeros((len(numbers), len(numbers)), int)
    for bond in molecule.GetBonds():
        pair = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        orders[pair] = orders[pair[::-1]] = int(bond.GetBondTypeAsDouble())
    valences = orders.sum(1)
    charges = [atom.GetFormalCharge() for atom in molecule.GetAtoms()]
    row["n_stable"] = sum(map(is_stable, numbers.tolist(), charges, valences.tolist()))
    row["valences"] = np.stack([numbers, valences], axis=1)
    first, second = np.triu_indices(len(numbers), k=1)
    between = orders[first, second]
    row["bonds"] = np.bincount(between, minlength=len(BOND_TYPES))
    bonded = between > 0
    lengths = np.linalg.norm(xyz[first[bonded]] - xyz[second[bonded]], axis=1)
    row["lengths"] = np.stack([between[bonded], lengths], axis=1)
    row["angles"] = _angles(numbers, orders, xyz)
    return row | _chemistry(molecule)


def _angles(numbers, orders, xyz) -> Float[np.ndarray, "m 2"]:
    """The central atom's number and the angle in degrees, of each pair of bonds at an atom."""
    found = [np.zeros((0, 2))]
    for atom in np.flatnonzero((orders > 0).sum(1) > 1):
        arms = xyz[orders[atom] > 0] - xyz[atom]
        arms /= np.linalg.norm(arms, axis=1, keepdims=True)
        cosines = (arms @ arms.T)[np.triu_indices(len(arms), k=1)]
        angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        found.append(np.stack([np.full(len(angles), numbers[atom]), angles], axis=1))
    return np.concatenate(found)


def _chemistry(molecule) -> dict[str, Any]:
    """The number of connected parts, and SMILES and properties of the largest if it passes sanitisation."""
    from rdkit import Chem, rdBase

    parts = Chem.GetMolFrags(molecule, asMols=True, sanitizeFrags=False)
    largest = sanitised(max(parts, key=lambda part: part.GetNumAtoms()))
    if isinstance(largest, str):
        return {"n_fragments": len(parts)}
    with rdBase.BlockLogs():
        largest = Chem.RemoveHs(largest)
        return {
            "n_fragments": len(parts),
            "smiles": Chem.MolToSmiles(largest, isomericSmiles=False),
            **of_bonds(largest),
        }
