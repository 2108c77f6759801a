"""Properties of molecules: RDKit's, which need bonds, and exact ones of the atoms alone.

Bonds are those of a molecule's name where it is a SMILES of these atoms, else perceived from the positions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from equiscale.data.chemistry import perceive, sanitised
from equiscale.data.molecules import Molecules, import_rdkit

HETERO = (7, 8)  # N and O


class Quantity(NamedTuple):
    """Its unit ("" for a pure number), and whether turning a molecule leaves it alone or turns it, too.

    A tensor is [3, 3], symmetric and without a trace.
    """

    unit: str
    kind: Literal["scalar", "vector", "tensor"]


OF_BONDS = {
    "logp": Quantity("", "scalar"),  # Crippen's
    "tpsa": Quantity("Å²", "scalar"),
    "heavy_atoms": Quantity("", "scalar"),
    "molecular_weight": Quantity("g/mol", "scalar"),
    "rings": Quantity("", "scalar"),
    "qed": Quantity("", "scalar"),
    "rotatable_bonds": Quantity("", "scalar"),
    "h_donors": Quantity("", "scalar"),
    "h_acceptors": Quantity("", "scalar"),
}
OF_ATOMS = {
    "heavy_atoms": OF_BONDS["heavy_atoms"],
    "molecular_weight": OF_BONDS["molecular_weight"],
    "radius_of_gyration": Quantity("Å", "scalar"),  # of all atoms, each of weight 1
    "vector_to_n_and_o": Quantity("Å", "vector"),  # from the centroid of all atoms to that of N and O
}
QUANTITIES = OF_BONDS | OF_ATOMS


def of_bonds(molecule: Any, names: Sequence[str] = tuple(OF_BONDS)) -> dict[str, float]:
    """Those of `OF_BONDS` that are asked for, of a sanitised RDKit molecule whose hydrogens are implied."""
    from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

    functions: dict[str, Callable] = {
        "logp": Crippen.MolLogP,
        "tpsa": rdMolDescriptors.CalcTPSA,
        "heavy_atoms": lambda molecule: molecule.GetNumHeavyAtoms(),
        "molecular_weight": Descriptors.MolWt,
        "rings": rdMolDescriptors.CalcNumRings,
        "qed": QED.qed,
        "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
        "h_donors": rdMolDescriptors.CalcNumHBD,
        "h_acceptors": rdMolDescriptors.CalcNumHBA,
    }
    return {name: functions[name](molecule) for name in names}


def of_atoms(
    positions: Float[np.ndarray, "n atoms 3"], species: Int[np.ndarray, "n atoms"], names: Sequence[str]
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Those of `OF_ATOMS` that are asked for, of padded molecules; NaN for a vector to N and O where there is none."""
    positions = np.asarray(positions, np.float64)
    real = species > 0
    relative = positions - _centroid(positions, real)[:, None]

    def weight():
        table = import_rdkit().GetPeriodicTable()
        weights = {number: table.GetAtomicWeight(int(number)) for number in np.unique(species[real])}
        return np.vectorize(lambda number: weights.get(number, 0.0), otypes=[float])(species).sum(1)

    functions = {
        "heavy_atoms": lambda: (species > 1).sum(1).astype(float),
        "molecular_weight": weight,
        "radius_of_gyration": lambda: np.sqrt((np.square(relative).sum(-1) * real).sum(1) / real.sum(1)),
        "vector_to_n_and_o": lambda: _centroid(relative, np.isin(species, HETERO)),
    }
    return {name: functions[name]() for name in names}


def _centroid(positions: Float[np.ndarray, "n atoms 3"], of: Bool[np.ndarray, "n atoms"]) -> Float[np.ndarray, "n 3"]:
    with np.errstate(invalid="ignore"):
        return (of[..., None] * positions).sum(1) / of.sum(1)[:, None]


def measure(
    molecules: Molecules, names: Sequence[str], *, workers: int | None = None
) -> tuple[dict[str, Float[np.ndarray, "n ..."]], list[str | None]]:
    """Properties by name, `[n]` or `[n, 3]`; and for each molecule why one cannot be told (it is NaN), or None.

    Raises ValueError for a name that is none of `QUANTITIES`; ImportError without RDKit.
    """
    check_names(names)
    in_space = [name for name in names if name in OF_ATOMS]
    by_bonds = [name for name in names if name not in OF_ATOMS]
    found = of_atoms(molecules.positions, molecules.species, in_space)
    reasons: list[str | None] = [None] * len(molecules)
    for name in in_space:
        for i in np.flatnonzero(np.isnan(found[name]).reshape(len(molecules), -1).any(1)):
            reasons[i] = "without N or O"
    if by_bonds:
        bonded = with_bonds(molecules, workers=workers)
        rows = [{} if isinstance(m, str) else of_bonds(m, by_bonds) for m in bonded]
        found |= {name: np.array([row.get(name, np.nan) for row in rows]) for name in by_bonds}
        reasons = [m if isinstance(m, str) else reason for m, reason in zip(bonded, reasons, strict=True)]
    return {name: found[name] for name in names}, reasons


def check_names(names: Sequence[str], known: Mapping[str, Quantity] = QUANTITIES) -> None:
    """Raises ValueError for none, one that is not known, or one twice."""
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"properties {', '.join(names) or '()'}: give some of {', '.join(known)}, each once")


def with_bonds(molecules: Molecules, *, workers: int | None = None) -> list:
    """For each molecule RDKit's, sanitised and with hydrogens implied, or as a str the reason why there is none."""
    import_rdkit()
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        found = [_from_smiles(name, species) for name, species in zip(molecules.names, molecules.species, strict=True)]
        unnamed = [i for i, molecule in enumerate(found) if molecule is None]
        if unnamed:
            perceived, _ = perceive(molecules.subset(unnamed), workers=workers)
            for i, molecule in zip(unnamed, perceived, strict=True):
                outcome = "whose bonds cannot be perceived" if molecule is None else sanitised(molecule)
                found[i] = outcome if isinstance(outcome, str) else Chem.RemoveHs(outcome)
    return found


def _from_smiles(name: str, species: Int[np.ndarray, " atoms"]):
    """The molecule of a SMILES, None where the name is none or stands for other atoms."""
    from rdkit import Chem

    molecule = Chem.MolFromSmiles(name)
    if molecule is None:
        return None
    numbers = [(atom.GetAtomicNum(), atom.GetTotalNumHs()) for atom in molecule.GetAtoms()]
    atoms = [number for number, _ in numbers] + [1] * sum(hydrogens for _, hydrogens in numbers)
    return molecule if sorted(atoms) == sorted(species[species > 0].tolist()) else None
