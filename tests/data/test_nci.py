import sys

import numpy as np
import pytest

from equiscale.data import nci
from equiscale.data.molecules import canonical_smiles
from equiscale.data.voxels import centre

Chem = pytest.importorskip("rdkit.Chem", reason="the compounds come with RDKit")

ELEMENTS = ("C", "H", "N", "O", "F", "S", "Cl", "Br")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def load(cache):
    def load(elements=ELEMENTS, **settings):
        return nci.load(elements, **({"limit": 20, "cache_dir": cache, "progress": False} | settings))

    return load


def assert_same(one, other):
    for a, b in zip((one[0].positions, one[0].species), (other[0].positions, other[0].species), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[0].names == other[0].names and one[0].source == other[0].source
    assert one[1] == other[1]


def refuse_to_make(monkeypatch):
    def make(*_):
        raise AssertionError("made again instead of read")

    monkeypatch.setattr(nci, "_make", make)


def test_compounds_are_molecules_of_the_wanted_elements_in_the_lists_order(load):
    molecules, report = load()
    assert len(molecules) == report.kept == 20
    numbers = {6, 1, 7, 8, 9, 16, 17, 35, 0}
    assert set(molecules.species.ravel().tolist()) <= numbers
    first = ["CC1=CC(=O)C=CC1=O", "S(SC1=NC2=CC=CC=C2S1)C3=NC4=C(S3)C=CC=C4"]
    assert molecules.names[:2] == canonical_smiles(first)
    assert molecules.names == canonical_smiles(molecules.names) and len(set(molecules.names)) == 20


def test_all_hydrogens_are_there_and_bonds_have_the_length_of_bonds(load):
    for settings in ({}, {"relax": True}):
        molecules, _ = load(**settings)
        for name, species, xyz in zip(molecules.names, molecules.species, molecules.positions, strict=True):
            compound = Chem.AddHs(Chem.MolFromSmiles(name))
            assert [atom.GetAtomicNum() for atom in compound.GetAtoms()] == species[species > 0].tolist()
            for bond in compound.GetBonds():
                length = np.linalg.norm(xyz[bond.GetBeginAtomIdx()] - xyz[bond.GetEndAtomIdx()])
                assert 0.9 < length < 2.2


def test_geometry_depends_on_the_compound_only(load, tmp_path):
    reference = load()
    assert_same(load(workers=1, cache_dir=tmp_path / "1"), reference)
    assert_same(load(workers=2, cache_dir=tmp_path / "2"), reference)
    few, _ = load(limit=5)
    n = few.species.shape[1]
    np.testing.assert_array_equal(few.positions, reference[0].positions[:5, :n])
    other, _ = load(seed=1)
    assert not any(np.array_equal(a, b) for a, b in zip(other.positions, reference[0].positions, strict=True))


def test_conformers_stand_in_a_row_and_differ(load):
    single, _ = load(limit=6)
    triple, report = load(limit=6, conformers=3)
    assert len(triple) == 18 and report.kept == 6
    assert triple.names == tuple(name for name in single.names for _ in range(3))
    np.testing.assert_array_equal(triple.positions[::3], single.positions)
    others, _ = load(limit=6, conformers=2, seed=1)
    rows = [*triple.positions, *others.positions]
    assert len({row.tobytes() for row in rows}) == len(rows)  # nor do seeds share any


def test_every_line_of_the_list_is_accounted_for(load):
    molecules, report = load(limit=None, max_heavy_atoms=4)
    assert report.total == 4_999 and report.kept == len(molecules) > 0
    assert report.reasons["of more than 4 heavy atoms"] > 4_000
    assert report.reasons["holding an element outside H C N O F S Cl Br"] > 300
    assert report.reasons["repeating an earlier compound"] > 0
    assert (molecules.species > 1).sum(axis=1).max() <= 4
    with pytest.raises(ValueError, match=r"limit=4000: the list cannot fill it \(kept"):
        load(limit=4_000, max_heavy_atoms=4)


def test_element_set_counts_whatever_its_order(load, monkeypatch):
    reference = load(("C", "H", "O"), limit=4)
    refuse_to_make(monkeypatch)
    assert_same(load(("O", "C", "H"), limit=4), reference)
    assert set(reference[0].species.ravel().tolist()) == {0, 1, 6, 8}


def test_cached_molecules_are_the_same_and_are_not_made_again(load, cache, monkeypatch):
    made = load()
    assert not list(cache.glob("*.part"))
    refuse_to_make(monkeypatch)
    assert_same(load(), made)
    for other in ({"limit": 19}, {"seed": 7}, {"conformers": 2}, {"relax": True, "limit": 2}):
        with pytest.raises(AssertionError, match="made again"):
            load(**other)


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "foreign"])
def test_damaged_cache_is_named_and_made_again(load, tmp_path, damage):
    reference = load(limit=3, cache_dir=tmp_path)
    (path,) = tmp_path.glob("nci-*.npz")
    whole = path.read_bytes()
    middle = whole[: len(whole) // 3] + bytes([whole[len(whole) // 3] ^ 255]) + whole[len(whole) // 3 + 1 :]
    path.write_bytes({"empty": b"", "truncated": whole[:-200], "flipped": middle, "foreign": b"text"}[damage])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .*making it again"):
        assert_same(load(limit=3, cache_dir=tmp_path), reference)
    assert path.read_bytes() == whole


def test_environment_names_the_cache_and_the_argument_wins(load, tmp_path, monkeypatch):
    monkeypatch.setenv("EQUISCALE_CACHE", str(tmp_path / "environment"))
    load(limit=1, cache_dir=None)
    load(limit=1, cache_dir=tmp_path / "argument")
    assert len(list((tmp_path / "environment").iterdir())) == 1
    assert len(list((tmp_path / "argument").iterdir())) == 1


def test_poses_are_far_from_uniform(load):
    """ETKDG lays molecules along x: without augmentation a model sees a preferred frame."""
    molecules, _ = load()
    centred = np.asarray(centre(molecules.positions, molecules.species))
    moments = (centred**2).sum(axis=1)
    along = (moments / moments.sum(axis=1, keepdims=True)).mean(axis=0)
    assert along[0] > 0.5 and along[0] > along[1] > along[2]  # uniform poses: a third each


def test_wrong_settings_are_refused(load, monkeypatch):
    with pytest.raises(ValueError, match="unknown element 'X'"):
        load(("C", "X"))
    for name in ("limit", "conformers", "max_heavy_atoms", "workers"):
        with pytest.raises(ValueError, match=f"{name}=0: give at least 1"):
            load(**{name: 0})
    with pytest.raises(ValueError, match="no compound of the NCI list is usable"):
        load(("He",), limit=None)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"pip install 'equiscale\[data\]'"):
        load()
