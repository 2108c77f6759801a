import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from equiscale.data.molecules import Molecules, from_records
from equiscale.data.readers import read_molecules

Chem = pytest.importorskip("rdkit.Chem", reason="bonds are perceived by RDKit")

from equiscale.data import chemistry as C  # noqa: E402

DRUGS = Path(__file__).parents[3] / "shared/data/drug3d"
COMPOUNDS = {
    "nitro": "Cc1ccc([N+](=O)[O-])cc1[N+](=O)[O-]",
    "nitro and chain": "O=C(Cc1ccc([N+](=O)[O-])cc1)c1ccccc1",
    "purine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "indole and pyridine": "c1ccc2[nH]c(-c3ccncc3)cc2c1",
    "sulfone": "CS(=O)(=O)c1ccc(N)cc1",
    "sulfonamide thiophene": "NS(=O)(=O)c1ccc(Cl)s1",
    "sulfoxide": "CS(=O)CCBr",
    "halogens": "FC(F)(F)c1ccc(Cl)c(Br)c1",
    "nitrile and alkyne": "C#CCCC#N",
    "acid and amide": "CC(=O)NC(C)C(=O)O",
    "thiazole thioketone": "CN1C(=S)SCC1=O",
    "N-oxide": "C[N+](C)([O-])CCO",
    "azide": "CCN=[N+]=[N-]",
    "diazoketone": "COC(=O)C=[N+]=[N-]",
    "phosphate": "COP(=O)(OC)OC",
    "naphthoquinone": "O=C1C=CC(=O)c2ccccc21",
    "isocyanide": "[C-]#[N+]C1CCCCC1",
    "hydrogen": "[H][H]",
}


def embedded(smiles, name=None):
    """A record of the compound, its atoms placed by ETKDG."""
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return name or smiles, numbers, molecule.GetConformer().GetPositions()


def smiles_of(molecule):
    outcome = C.sanitised(molecule)
    return outcome if isinstance(outcome, str) else Chem.MolToSmiles(Chem.RemoveHs(outcome), isomericSmiles=False)


@pytest.fixture(scope="module")
def compounds() -> Molecules:
    return from_records([embedded(smiles) for smiles in COMPOUNDS.values()], "ETKDG")


def garbage(seed, n, n_atoms=44, size=6.0, elements=(1, 6, 7, 8, 9, 16, 17, 35)) -> Molecules:
    rng = np.random.default_rng(seed)
    positions = rng.uniform(0, size, (n, n_atoms, 3)).astype(np.float32)
    species = rng.choice(elements, (n, n_atoms)).astype(np.int32)
    return Molecules(positions, species, tuple(f"garbage {i}" for i in range(n)), "random")


def one(numbers, positions) -> Molecules:
    return Molecules(np.float32(positions)[None], np.int32(numbers)[None], ("one",), "here")


def test_real_compounds_come_back(compounds):
    perceived, report = C.perceive(compounds)
    assert report.kept == len(COMPOUNDS) and not report.reasons
    for (kind, smiles), molecule in zip(COMPOUNDS.items(), perceived, strict=True):
        assert smiles_of(molecule) == Chem.CanonSmiles(smiles), kind
        assert Chem.GetFormalCharge(molecule) == 0


def test_atoms_keep_their_order_and_place(compounds):
    perceived, _ = C.perceive(compounds)
    for species, xyz, molecule in zip(compounds.species, compounds.positions, perceived, strict=True):
        n = np.count_nonzero(species)
        assert [atom.GetAtomicNum() for atom in molecule.GetAtoms()] == species[:n].tolist()
        np.testing.assert_array_equal(np.float32(molecule.GetConformer().GetPositions()), xyz[:n])
        kinds = {bond.GetBondType() for bond in molecule.GetBonds()}
        assert kinds <= {Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE}


def test_threads_turns_and_padding_change_nothing(compounds):
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    real = (compounds.species > 0)[..., None]
    moved = Molecules(
        np.pad(np.where(real, compounds.positions @ np.float32(turn) + 3, 0), [(0, 0), (0, 5), (0, 0)]),
        np.pad(compounds.species, [(0, 0), (0, 5)]),
        compounds.names,
        "moved",
    )
    smiles = [
        list(map(smiles_of, C.perceive(m, workers=w)[0])) for m, w in ((compounds, 1), (compounds, 3), (moved, 1))
    ]
    assert smiles[0] == smiles[1] == smiles[2]


def test_noise_that_leaves_bonds_their_length_leaves_the_compound(compounds):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.04, compounds.positions.shape) * (compounds.species > 0)[..., None]
    noisy = Molecules(np.float32(compounds.positions + noise), compounds.species, compounds.names, "noisy")
    perceived, _ = C.perceive(noisy)
    right = [smiles_of(m) == Chem.CanonSmiles(s) for m, s in zip(perceived, COMPOUNDS.values(), strict=True)]
    assert sum(right) >= len(right) - 1


def test_random_atoms_take_no_time_and_crash_nothing():
    slowest = 0.0
    for size in (3.0, 6.0, 9.0):
        molecules = garbage(0, 15, size=size)
        C.perceive(molecules.subset([0]))
        start = time.process_time()  # others may want the processor
        perceived, report = C.perceive(molecules, workers=1)
        slowest = max(slowest, (time.process_time() - start) / len(molecules))
        assert report.kept == len(molecules) and None not in perceived
        outcomes = [C.sanitised(molecule) for molecule in perceived]
        if size < 9:
            assert sum(isinstance(outcome, str) for outcome in outcomes) > 10
            assert "holding an atom of impossible valence" in outcomes
    assert slowest < 0.25  # 5 to 8 ms


@pytest.mark.parametrize(
    "numbers, positions",
    {
        "sheet without hydrogen": ([6] * 54, [(2.46 * (i + j / 2), 2.13 * j + 1.42 * s, 0)
                                              for i in range(3) for j in range(9) for s in (0, 1)]),
        "one point": ([6] * 30, np.zeros((30, 3))),
        "far apart": ([6] * 30, np.random.default_rng(0).normal(size=(30, 3)) * 1e30),
        "crystal": ([11, 17] * 32, [(i, j, k) for i in range(4) for j in range(4) for k in range(4)]),
        "noble and heavy": ([2, 118, 92, 10, 57, 3], np.random.default_rng(1).normal(size=(6, 3))),
    }.values(),
)  # fmt: skip
def test_strange_molecules_are_perceived(numbers, positions):
    start = time.perf_counter()
    (molecule,), report = C.perceive(one(numbers, positions))
    assert report.kept == 1 and molecule.GetNumAtoms() == len(numbers)
    assert time.perf_counter() - start < 2
    C.sanitised(molecule)


def test_what_cannot_be_perceived_is_counted_by_reason():
    molecules = garbage(0, 5, n_atoms=10, size=3)
    molecules.positions[1, 3, 2] = np.nan
    molecules.positions[2, 0] = np.inf
    molecules.species[3] = 0
    molecules.species[4, 2] = 119
    perceived, report = C.perceive(molecules)
    assert [molecule is None for molecule in perceived] == [False, True, True, True, True]
    assert report.kept == 1
    assert report.reasons == {
        "with a position that is not finite": 2,
        "without atoms": 1,
        "holding an unknown element": 1,
    }
    assert "more than 999" in str(C.perceive(garbage(0, 1, n_atoms=1_000))[1])
    assert C.perceive(molecules.subset([])) == ([], C.Skipped(0, {}))
    with pytest.raises(ValueError, match="workers=0"):
        C.perceive(molecules, workers=0)


def test_the_best_of_a_broken_molecule_is_kept():
    """One impossible atom, a lone proton's place, a missing hydrogen: the rest of the bonds is as it was."""
    _, numbers, xyz = embedded("C=CC(=O)OCC#N")
    hydrogen = numbers.index(1)
    (radical,), _ = C.perceive(one(np.delete(numbers, hydrogen), np.delete(xyz, hydrogen, axis=0)))
    assert sorted(b.GetBondTypeAsDouble() for b in radical.GetBonds() if b.GetBondTypeAsDouble() > 1) == [2, 2, 3]
    assert sum(atom.GetNumRadicalElectrons() for atom in C.sanitised(radical).GetAtoms()) == 1
    far = np.concatenate([xyz, xyz + [30, 0, 0]])
    (pair,), _ = C.perceive(one(numbers * 2, far))
    assert smiles_of(pair) == "C=CC(=O)OCC#N.C=CC(=O)OCC#N"
    # Ammonium has nothing to balance its charge: it stays uncharged, and impossible.
    tetrahedron = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.59
    (ammonium,), _ = C.perceive(one([7, 1, 1, 1, 1], tetrahedron))
    assert Chem.GetFormalCharge(ammonium) == 0 and ammonium.GetNumBonds() == 4
    assert C.sanitised(ammonium) == "holding an atom of impossible valence"


def test_a_close_sulfur_oxygen_contact_is_no_bond():
    _, numbers, xyz = embedded("CSCCC=O")
    perceived, _ = C.perceive(one(numbers, xyz))
    sulfur, oxygen = numbers.index(16), numbers.index(8)
    xyz = np.array(xyz)
    bonded = {b.GetBeginAtomIdx() + b.GetEndAtomIdx() - sulfur for b in perceived[0].GetAtomWithIdx(sulfur).GetBonds()}
    away = xyz[sulfur] - xyz[sorted(bonded)].mean(0)
    contact = xyz[sulfur] + away / np.linalg.norm(away) * 2.1  # below RDKit's limit of 2.16
    water = [contact, contact + away / np.linalg.norm(away) * 0.6 + [0, 0.76, 0], contact + [0.96, 0, 0]]
    (with_water,), _ = C.perceive(one([*numbers, 8, 1, 1], [*xyz, *water]))
    assert with_water.GetBondBetweenAtoms(sulfur, len(numbers)) is None
    assert with_water.GetBondBetweenAtoms(sulfur, oxygen) is None


def test_sdf_holds_all_and_reads_back(compounds, tmp_path):
    broken = garbage(0, 6, n_atoms=20, size=4)
    broken.positions[0, 0, 0] = np.nan
    rows = [(name, species[species > 0], xyz[species > 0])
            for m in (compounds, broken.subset([1, 2, 3, 4, 5]))
            for name, species, xyz in zip(m.names, m.species, m.positions, strict=True)]  # fmt: skip
    molecules = from_records(rows, "here")
    path = tmp_path / "molecules.sdf"
    assert C.write_sdf(path, molecules).kept == len(molecules) and list(tmp_path.iterdir()) == [path]
    for (name, numbers, xyz), record in zip(rows, read_molecules(path), strict=True):
        assert record[0] == name and list(record[1]) == numbers.tolist()
        np.testing.assert_allclose(record[2], xyz, atol=1e-4)
    read = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    notes = [molecule.GetProp("bonds") for molecule in read]
    assert notes[: len(COMPOUNDS)] == ["perceived"] * len(COMPOUNDS)
    failing = [m for m, note in zip(read, notes, strict=True) if note.startswith("connectivity only: holding an atom")]
    assert failing and all(b.GetBondType() == Chem.BondType.SINGLE for m in failing for b in m.GetBonds())
    again = Chem.SDMolSupplier(str(path))
    for i, smiles in enumerate(COMPOUNDS.values()):
        Chem.RemoveStereochemistry(again[i]) if again[i] else None
        assert Chem.MolToSmiles(again[i], isomericSmiles=False) == Chem.CanonSmiles(smiles)
    assert C.write_sdf(path, broken).reasons == {"with a position that is not finite": 1}


def test_a_radical_in_an_sdf_gains_no_hydrogen(tmp_path):
    _, numbers, xyz = embedded("CCO")
    C.write_sdf(tmp_path / "radical.sdf", one(numbers[:-1], xyz[:-1]))
    (read,) = Chem.SDMolSupplier(str(tmp_path / "radical.sdf"), removeHs=False)
    assert sum(atom.GetTotalNumHs(includeNeighbors=True) for atom in read.GetAtoms()) == 5


def test_a_failed_write_leaves_the_old_file_alone(compounds, tmp_path, monkeypatch):
    path = tmp_path / "molecules.sdf"
    path.write_text("old")
    monkeypatch.setattr(C, "sanitised", lambda molecule: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        C.write_sdf(path, compounds.subset([0]))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_molecules_can_be_pickled(compounds):
    (molecule,), _ = C.perceive(compounds.subset([0]))
    assert smiles_of(pickle.loads(pickle.dumps(molecule))) == Chem.CanonSmiles(COMPOUNDS["nitro"])


@pytest.mark.skipif(not DRUGS.exists(), reason=f"{DRUGS} is not here: the drug-like conformers were not supplied")
def test_real_drug_conformers_come_back():
    names = dict(line.split()[::-1] for line in (DRUGS / "molecules.smi").read_text().splitlines())
    records, seen = [], set()
    with tarfile.open(DRUGS / "drug_conformers_4927.tar.xz") as archive:
        for member in archive:
            compound = Path(member.name).parent.name
            if member.isfile() and compound not in seen:
                seen.add(compound)
                block = archive.extractfile(member).read().decode()
                molecule = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
                numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
                records.append((names[compound], numbers, molecule.GetConformer().GetPositions()))
    molecules = from_records(records, "drug3d")
    perceived, report = C.perceive(molecules)
    assert report.kept == len(molecules) == 498

    def known(smiles):
        return Chem.CanonSmiles(Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False))

    right = [smiles_of(m) == known(smiles) for m, smiles in zip(perceived, molecules.names, strict=True)]
    assert np.mean(right) > 0.985
