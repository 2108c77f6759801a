import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from equiscale.data.molecules import BadMolecule, from_records
from equiscale.data.readers import read_molecules

DATA = Path(__file__).parents[3] / "shared/data"
XYZ = """2
first
H 0.0 0.0 0.0
F 0.9 0.0 0.0
1
second
O 1.0 2.0 3.0
"""


def sdf(smiles="CO", n=2):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    blocks = []
    for i in range(n):
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(molecule, randomSeed=i)
        molecule.SetProp("_Name", f"methanol {i}")
        blocks.append(Chem.MolToMolBlock(molecule) + "$$$$\n")
    return "".join(blocks)


def test_xyz_frames(tmp_path):
    (tmp_path / "two.xyz").write_text(XYZ)
    molecules = from_records(read_molecules(tmp_path / "two.xyz"), "test")
    assert molecules.species.tolist() == [[1, 9], [8, 0]]
    np.testing.assert_allclose(molecules.positions[1, 0], [1, 2, 3])
    assert molecules.names[1].endswith("two.xyz, frame 2")


def test_sdf_entries_keep_their_hydrogens_and_titles(tmp_path):
    (tmp_path / "m.sdf").write_text(sdf())
    molecules = from_records(read_molecules(tmp_path / "m.sdf"), "test")
    assert molecules.names == ("methanol 0", "methanol 1") and molecules.n_atoms.tolist() == [6, 6]
    assert sorted(molecules.species[0].tolist()) == [1, 1, 1, 1, 6, 8]


def test_archives_gzip_and_folders_give_the_same(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.xyz").write_text(XYZ)
    (tmp_path / "in" / "b.sdf.gz").write_bytes(gzip.compress(sdf().encode()))
    with tarfile.open(tmp_path / "all.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "in", "in")
    folder, archive = (list(read_molecules(tmp_path / name)) for name in ("in", "all.tar.xz"))
    assert len(folder) == len(archive) == 4
    for (_, z, r), (_, z2, r2) in zip(sorted(folder, key=str), sorted(archive, key=str), strict=True):
        assert list(z) == list(z2)
        np.testing.assert_array_equal(r, r2)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("cut.xyz", XYZ[:-20].encode(), "cut.xyz, frame 2"),
        ("notes.md", b"# notes", "no reader for '.md'"),
        ("cut.sdf.gz", gzip.compress(sdf().encode())[:50], "ends early or is damaged"),
        ("cut.tar.xz", b"\xfd7zXZ\x00\x00\x04", "ends early or is damaged"),
        ("empty.sdf", b"no\nmol\nblock\nhere\n$$$$\n", "entry 1"),
    ],
    ids=["xyz", "md", "gz", "tar", "sdf"],  # content holds the time it was made at, and workers must agree on names
)
def test_what_cannot_be_read_is_named_and_counted(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    *_, last = read_molecules(tmp_path / name)
    assert isinstance(last, BadMolecule) and message in str(last)


def test_a_bad_entry_does_not_end_the_reading(tmp_path):
    (tmp_path / "m.sdf").write_text("broken\n\n\nnonsense\n$$$$\n" + sdf(n=1))
    bad, good = read_molecules(tmp_path / "m.sdf")
    assert isinstance(bad, BadMolecule) and good[0] == "methanol 0"


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.sdf does not exist"):
        list(read_molecules(tmp_path / "nowhere.sdf"))


@pytest.mark.skipif(not DATA.exists(), reason="published structures are not part of the project")
def test_published_files():
    def count(path):
        found = list(read_molecules(DATA / path))
        return len(found), sum(isinstance(f, BadMolecule) for f in found)

    assert count("forces/ethanol_train.xyz") == (1000, 0)
    assert count("drug3d/drug_conformers_4927.tar.xz") == (4927, 0)


def test_binary_content_in_an_xyz_is_bad_and_not_fatal(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("bad.xyz", bytes(range(256))), ("good.xyz", XYZ.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found = list(read_molecules(tmp_path / "a.tar"))
    assert [isinstance(f, BadMolecule) for f in found] == [True, False, False]
