"""Sets of molecules that the tests of generation share."""

import numpy as np
import pytest

Chem = pytest.importorskip("rdkit.Chem", reason="generated molecules are judged by RDKit")

from equiscale.data.molecules import Molecules, Skipped, from_records  # noqa: E402
from equiscale.studies.molecule_statistics import N_ELEMENTS, PROPERTIES, Sample, Statistics  # noqa: E402

COMPOUNDS = (
    "CCO",
    "CC(=O)Nc1ccccc1",
    "O=[N+]([O-])c1ccccc1",
    "c1ccncc1",
    "CS(=O)(=O)c1ccccc1",
    "FC(F)(F)CBr",
    "C#CCN",
    "Clc1ccc2[nH]ccc2c1",
    "CCOC(=O)C=C",
    "C1CCOCC1",
    "CN1C=NC=C1C#N",
    "CC(C)(C)O",
)


def embedded(smiles, seed):
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) == 0
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return smiles, numbers, molecule.GetConformer().GetPositions()


def conformers() -> Molecules:
    """Two conformers of each compound."""
    return from_records([embedded(smiles, seed) for seed in (1, 2) for smiles in COMPOUNDS], "ETKDG")


def garbage(n=12, n_atoms=30, size=4.0) -> Molecules:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, size, (n, n_atoms, 3)).astype(np.float32)
    species = rng.choice([1, 6, 7, 8], (n, n_atoms)).astype(np.int32)
    return Molecules(positions, species, tuple(f"garbage {i}" for i in range(n)), "random")


def nothing(n=0) -> Molecules:
    """n molecules without atoms."""
    return Molecules(np.zeros((n, 4, 3), np.float32), np.zeros((n, 4), np.int32), ("none",) * n, "nowhere")


def hand(smiles=("C", "C", "O", None), elements=None, bonds=None, valences=(), lengths=(), angles=(), **fields):
    """Statistics by hand: `elements` {number: count} and `bonds` [4] a molecule, samples as (molecule, kind, value)."""
    n = len(smiles)
    counts = np.zeros((n, N_ELEMENTS), int)
    for row, of_molecule in enumerate(elements or ()):
        for number, count in of_molecule.items():
            counts[row, number] = count

    def sample(triples):
        molecule, kind, value = np.array(triples, float).reshape(-1, 3).T
        return Sample(molecule.astype(int), kind.astype(int), value)

    defaults = {
        "n_atoms": np.full(n, 2),
        "n_stable": np.full(n, 2),
        "n_fragments": np.ones(n, int),
        "properties": {name: np.zeros(n) for name in PROPERTIES},
        "report": Skipped(n, {}),
    }
    return Statistics(
        smiles=smiles,
        elements=counts,
        bonds=np.zeros((n, 4), int) if bonds is None else np.array(bonds),
        valences=sample(valences),
        lengths=sample(lengths),
        angles=sample(angles),
        **(defaults | fields),
    )
