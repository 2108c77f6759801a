"""Readers of chains on hand-written files: a zigzag of residues 0.38 nm apart, so that what is expected is plain."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from equiscale.data import chain_readers as R
from equiscale.data.chains import ChainRecord, Limits, from_records, from_records_skipping
from equiscale.data.molecules import BadMolecule

pytest.importorskip("gemmi", reason="PDB and mmCIF are read by gemmi")

DATA = Path(__file__).parents[3] / "shared/data/protein"
NO_LIMITS = Limits(None, None, None, None)


def place(i):
    """Residue i of the zigzag, in angstrom."""
    return 3.3 * i, 1.9 * (i % 2), 0.0


def atom(i, residue, number, name="CA", chain="A", alternate=" ", inserted=" ", occupancy=1.0, shift=0.0):
    x, y, z = place(i)
    kind = "ATOM" if residue in R.LETTERS or residue.startswith("D") else "HETATM"
    element = {"CA": "C", "N": "N", "P": "P", "O": "O"}[name]
    return (
        f"{kind:<6}{i + 1:>5} {f' {name}':<4}{alternate}{residue:>3} {chain}{number:>4}{inserted}   "
        f"{x:8.3f}{y + shift:8.3f}{z:8.3f}{occupancy:6.2f}{10:6.2f}          {element:>2}"
    )


def chain(*names, first=1, letter="A"):
    return [atom(i, name, first + i, chain=letter) for i, name in enumerate(names)]


def read(tmp_path, text, name="test.pdb"):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else "\n".join(text) + "\n")
    return list(R.read_chains(path))


PUBLISHED = [
    "HEADER    HYDROLASE                               01-JAN-00   1ABC              ",
    "EXPDTA    X-RAY DIFFRACTION",
    "REMARK   2 RESOLUTION.    2.10 ANGSTROMS.",
    "SEQRES   1 A    8  MET ALA GLY SER LEU MSE LYS SEP",
    "MODEL        1",
    atom(1, "ALA", 12, "N"),
    atom(1, "ALA", 12),
    atom(2, "GLY", 13, alternate="A", occupancy=0.4),
    atom(2, "GLY", 13, alternate="B", occupancy=0.6, shift=0.5),
    atom(3, "SER", 14, "N"),
    atom(5, "MSE", 16),
    atom(6, "LYS", 17),
    atom(7, "SEP", 18),
    "TER",
    atom(9, "HOH", 101, "O"),
    "ENDMDL",
    "MODEL        2",
    atom(1, "ALA", 12, shift=50.0),
    "TER",
    "ENDMDL",
    "END",
]


def test_what_is_changed_in_a_published_file_is_counted(tmp_path):
    (record,) = read(tmp_path, PUBLISHED)
    assert record.name == "1abc_A" and record.sequence == "AGMK" and record.length == 8
    assert record.resolution == pytest.approx(2.1) and record.method == "X-RAY DIFFRACTION"
    assert record.numbers.tolist() == [2, 3, 6, 7], "places in SEQRES"
    expected = np.array([place(1), np.add(place(2), [0, 0.5, 0]), place(5), place(6)]) / 10
    np.testing.assert_allclose(record.positions, expected, atol=1e-9)
    assert record.changes == {
        R.MISSING: 2,  # MET 1 and LEU 5
        R.ALTERNATE: 1,
        R.SELENIUM: 1,
        R.NO_ALPHA: 1,
        R.NONSTANDARD: 1,
        R.BROKEN: 1,
    }
    chains = from_records([record], "test", NO_LIMITS)
    assert chains.index.tolist() == [[1, 2, 5, 6]] and chains.breaks.tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("occupancies, chosen", [((0.5, 0.5), 0), ((0.3, 0.7), 1), ((0.7, 0.3), 0)])
def test_the_alternate_location_of_highest_occupancy_is_read_the_first_of_equals(occupancies, chosen, tmp_path):
    both = [
        atom(1, name, 2, alternate=letter, occupancy=occupancy, shift=0.1 * i)
        for i, (name, letter, occupancy) in enumerate(zip(("ALA", "SER"), "AB", occupancies, strict=True))
    ]
    (record,) = read(tmp_path, [atom(0, "GLY", 1), *both, atom(2, "GLY", 3), "TER"])
    assert record.sequence == ("GAG", "GSG")[chosen] and record.changes == {R.ALTERNATE: 1}
    assert record.positions[1, 1] == pytest.approx(0.19 + 0.01 * chosen)


def test_numbers_without_a_sequence(tmp_path):
    """Inserted residues count one each, a jump without a break is closed, one across a break is kept."""
    lines = [
        atom(0, "GLY", -3),
        atom(1, "ALA", 52),  # bonded to the one before
        atom(2, "ALA", 52, inserted="A"),
        atom(3, "ALA", 53),
        atom(8, "ALA", 58),  # four missing
        "TER",
    ]
    (record,) = read(tmp_path, lines)
    assert (record.numbers - record.numbers[0]).tolist() == [0, 1, 2, 3, 8]
    assert record.changes == {R.CLOSED: 1, R.BROKEN: 1, R.MISSING: 4} and record.length is None
    assert record.name == "test_A"


def test_what_is_no_protein_chain_is_named(tmp_path):
    dna = [atom(i, name, i + 1, "P", "B") for i, name in enumerate(("DA", "DC", "DG", "DT"))]
    water = [atom(20, "HOH", 1, "O", "W")]
    found = read(tmp_path, [*chain("ALA", "GLY", "SER"), "TER", *dna, "TER", *water, "END"])
    assert [getattr(r, "reason", r.sequence if isinstance(r, ChainRecord) else "") for r in found] == [
        "AGS",
        "that are no protein chain",
        "of ligands or water alone",
    ]
    chains, report = from_records_skipping(found, "test", NO_LIMITS)
    assert len(chains) == 1 and report.total == 3


CIF = """data_2XYZ
#
_entry.id 2XYZ
#
_exptl.entry_id 2XYZ
_exptl.method '{method}'
#
loop_
_entity.id
_entity.type
1 polymer
2 water
#
_entity_poly.entity_id 1
_entity_poly.type 'polypeptide(L)'
#
loop_
_entity_poly_seq.entity_id
_entity_poly_seq.num
_entity_poly_seq.mon_id
1 1 GLY
1 2 ALA
1 3 SER
1 4 LYS
#
loop_
_struct_asym.id
_struct_asym.entity_id
A 1
B 2
#
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
ATOM 1 C CA . ALA A 1 2 ? 0.0 0.0 0.0 1.0 77 H 1
ATOM 2 C CA . SER A 1 3 ? 3.8 0.0 0.0 1.0 77 H 1
ATOM 3 C CA . LYS A 1 4 ? 3.8 3.8 0.0 1.0 80 H 1
HETATM 4 O O . HOH B 2 . ? 9.0 9.0 9.0 1.0 201 H 1
#
"""


def test_mmcif_gives_places_in_the_sequence_and_the_authors_letter(tmp_path):
    """Of the block that has atoms, whichever it is."""
    (record,) = read(tmp_path, "data_about\n_x.y z\n#\n" + CIF.format(method="SOLUTION NMR"), "2xyz.cif")
    assert record.name == "2xyz_H" and record.sequence == "ASK" and record.numbers.tolist() == [2, 3, 4]
    assert record.length == 4 and record.method == "SOLUTION NMR" and record.changes == {R.MISSING: 1}
    np.testing.assert_allclose(record.positions[2], [0.38, 0.38, 0])
    with pytest.raises(ValueError, match="no chain left of test: kept 0 of 1: 1 by solution nmr"):
        from_records_skipping([record], "test", Limits(above=None))


CUT_PDB = PUBLISHED[:-3]
NPZ = {
    "ids": np.array(["1AAA_A", "1BBB_B"]),
    "length": np.array([3, 2]),
    "ca": np.array([place(i) for i in range(5)]),
    "seq": np.array(["GAS", "LK"]),
    "resolution": np.array([1.5, np.nan]),
    "cluster": np.array([7, 3]),
}


def packed(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("empty.pdb", b"", "in a file without atoms"),
        ("words.pdb", b"this is no structure\n", "in a file without atoms"),
        ("empty.cif", b"", "in a file without atoms"),
        ("cut.pdb", "\n".join(CUT_PDB).encode(), "in a file cut short"),
        ("half.pdb", "\n".join(chain("ALA", "GLY"))[:-35].encode(), "in a file cut short"),
        ("cut.cif", CIF[:-60].encode(), "in a file cut short"),
        ("wrong.cif", CIF.replace(" 80 H 1", " 80 H").encode(), "in a file that cannot be read"),
        ("bytes.cif", bytes(range(256)), "in a file that cannot be read"),
        ("notes.md", b"# notes", "in a file of unknown kind (.md)"),
        ("cut.pdb.gz", gzip.compress(b"ATOM" * 5000)[:20], "in a damaged file"),
        ("cut.npz", packed(**NPZ)[:-50], "in a file that cannot be read"),
        ("other.npz", packed(x=np.zeros(3)), "in arrays of unknown names"),
        ("odd.npz", packed(**NPZ | {"length": np.array([3, 3])}), "with lengths that disagree"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_named_and_counted(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    *_, last = R.read_chains(tmp_path / name)
    assert isinstance(last, BadMolecule) and last.reason == reason and name in str(last)


def test_archives_gzip_and_folders_give_the_same(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.pdb").write_text("\n".join(chain("ALA", "GLY", "SER")) + "\n")
    (inside / "b.cif.gz").write_bytes(gzip.compress(CIF.format(method="X").encode()))
    (inside / "c.npz").write_bytes(packed(**NPZ))
    with tarfile.open(tmp_path / "all.tar.xz", "w:xz") as archive:
        archive.add(inside, "in")
    folder, archive = (list(R.read_chains(tmp_path / name)) for name in ("in", "all.tar.xz"))
    assert sorted(r.name for r in folder) == ["1AAA_A", "1BBB_B", "2xyz_H", "a_A"]
    for one, other in zip(sorted(folder), sorted(archive), strict=True):
        assert one.name == other.name and one.sequence == other.sequence
        np.testing.assert_array_equal(one.positions, other.positions)


def test_arrays_tell_clusters_and_resolutions(tmp_path):
    (tmp_path / "c.npz").write_bytes(packed(**NPZ))
    first, second = R.read_chains(tmp_path / "c.npz")
    assert (first.cluster, first.resolution, first.sequence) == ("7", 1.5, "GAS")
    assert (second.cluster, second.resolution, second.length) == ("3", None, 2)
    np.testing.assert_allclose(second.positions, np.array([place(3), place(4)]) / 10)


@pytest.mark.skipif(not DATA.exists(), reason="published structures are not part of the project")
def test_published_files():
    found = list(R.read_chains(DATA / "bm5_pdb_172.tar.xz"))
    assert len(found) == 172 and all(isinstance(record, ChainRecord) for record in found)
    chains, report = from_records_skipping(found, "docking benchmark")
    assert report.reasons == {"of 256 residues or more": 15, "of 50 residues or fewer": 3} and chains.breaks.sum() == 4
    lengths = {"1aki": (129, 129, 1.5), "1dix": (208, 208, 1.65), "1o1z": (226, 234, 1.6)}
    for entry, (seen, length, resolution) in lengths.items():
        (record,) = R.read_chains(DATA / f"{entry}.cif")
        assert (record.name, len(record.numbers), record.length) == (f"{entry}_A", seen, length)
        assert record.resolution == pytest.approx(resolution)
