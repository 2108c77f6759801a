import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.data import molecules as M

WATER = ("O", [8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])
METHANE = ("C", ["C", "H", "H", "H", "H"], np.eye(5, 3))


def broken(**change):
    """Water with one field replaced."""
    record = dict(zip(("name", "elements", "coordinates"), WATER, strict=True)) | change
    return tuple(record.values())


BAD = {
    "unknown symbol": (broken(elements=["O", "Hx", "H"]), "'O', atom 1: unknown element 'Hx'"),
    "unknown number": (broken(elements=[8, 1, 119]), "atom 2: unknown element 119"),
    "padding inside": (broken(elements=[8, 0, 1]), "atom 1: unknown element 0"),
    "fraction": (broken(elements=[8.0, 1.5, 1.0]), "atom 0: unknown element 8.0"),
    "no element": (broken(elements=[8, None, 1]), "unknown element"),
    "nan": (broken(coordinates=[[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]), "atom 1: .*nan.* not finite"),
    "infinite": (broken(coordinates=[[0, 0, 0], [0, 0, 0], [-np.inf, 0, 0]]), "atom 2: .*-inf.* not finite"),
    "beyond float32": (broken(coordinates=[[0, 0, 0], [1e39, 0, 0], [0, 0, 0]]), "atom 1: .*not finite"),
    "empty": (("nothing", [], np.zeros((0, 3))), "'nothing' has no atoms"),
    "too few rows": (broken(coordinates=[[0, 0, 0]]), r"3 elements and coordinates of shape \(1, 3\)"),
    "flat": (broken(coordinates=np.zeros(9)), r"shape \(9,\): give \[3, 3\]"),
    "ragged": (broken(coordinates=[[0, 0], [0, 0, 0], [0]]), "no .* array of numbers"),
    "text": (broken(coordinates=[["x", "y", "z"]] * 3), "no .* array of numbers"),
    "matrix of elements": (broken(elements=[[8], [1], [1]]), r"elements of shape \(3, 1\)"),
}


def test_records_become_padded_arrays():
    molecules = M.from_records([WATER, METHANE], "here")
    assert molecules.positions.shape == (2, 5, 3) and molecules.positions.dtype == np.float32
    assert molecules.species.tolist() == [[8, 1, 1, 0, 0], [6, 1, 1, 1, 1]]
    assert molecules.n_atoms.tolist() == [3, 5]
    assert not molecules.positions[0, 3:].any()
    np.testing.assert_array_equal(molecules.positions[0, :3], np.float32(WATER[2]))
    assert molecules.names == ("O", "C") and molecules.source == "here" and len(molecules) == 2
    assert "2 of up to 5 atoms, here" in repr(molecules)


def test_symbols_and_numbers_are_the_same_elements():
    for number, symbol in enumerate(M.SYMBOLS[1:], 1):
        assert M.atomic_number(symbol) == number
    assert len(M.SYMBOLS) == 119 and [M.atomic_number(s) for s in ("C", "Cl", "Br", "Au")] == [6, 17, 35, 79]
    with pytest.raises(ValueError, match="unknown element 'cl'"):
        M.atomic_number("cl")


@pytest.mark.parametrize("record, message", BAD.values(), ids=BAD)
def test_a_bad_record_is_named_with_its_value(record, message):
    with pytest.raises(ValueError, match=message):
        M.from_records([METHANE, record], "here")


def test_tolerant_reading_keeps_the_good_and_counts_the_rest():
    bad = [record for record, _ in BAD.values()]
    records = [bad[0], WATER, *bad[1:], METHANE]
    molecules, report = M.from_records_skipping(records, "here")
    np.testing.assert_array_equal(molecules.positions, M.from_records([WATER, METHANE], "here").positions)
    assert report.kept == 2 and report.total == len(records)
    assert report.reasons["holding an unknown element"] == 5
    assert report.reasons["with a coordinate that is not finite"] == 3
    assert report.reasons["without atoms"] == 1
    with pytest.raises(ValueError, match="no molecule left of here: kept 0 of 14"):
        M.from_records_skipping(bad, "here")


def test_max_atoms_sets_the_width_and_turns_away_what_is_longer():
    assert M.from_records([WATER], "here", max_atoms=7).species.shape == (1, 7)
    with pytest.raises(ValueError, match="'C' has 5 atoms: raise max_atoms=4"):
        M.from_records([WATER, METHANE], "here", max_atoms=4)
    _, report = M.from_records_skipping([WATER, METHANE], "here", max_atoms=4)
    assert str(report) == "kept 1 of 2: 1 with more than 4 atoms"


def test_no_record_and_disagreeing_arrays_are_refused():
    with pytest.raises(ValueError, match="no molecule in here"):
        M.from_records([], "here")
    positions, species = np.zeros((2, 4, 3), np.float32), np.zeros((2, 4), np.int32)
    with pytest.raises(ValueError, match="disagree"):
        M.Molecules(positions[:, :3], species, ("a", "b"), "here")
    with pytest.raises(ValueError, match=r"float64 .* give float32"):
        M.Molecules(positions.astype(float), species, ("a", "b"), "here")
    with pytest.raises(ValueError, match="1 names for 2"):
        M.Molecules(positions, species, ("a",), "here")


def test_a_report_prints_its_largest_reason_first():
    report = M.tally([None] * 1_024 + ["holding Si"] * 120 + ["leaving the grid"] * 1_660)
    assert str(report) == "kept 1,024 of 2,804: 1,660 leaving the grid, 120 holding Si"
    assert str(M.tally([None])) == "kept 1 of 1"
    assert M.tally([]) == M.Skipped(0, {})


def named(*names) -> M.Molecules:
    """Molecules of one atom each, told apart by the x coordinate."""
    return M.from_records([(name, [1], [[i, 0, 0]]) for i, name in enumerate(names)], "here")


def test_subset_takes_indices_and_masks_alike():
    molecules = named(*"abcd")
    assert molecules.subset([2, 0]).names == ("c", "a")
    assert molecules.subset(np.array([True, False, False, True])).positions[:, 0, 0].tolist() == [0, 3]
    assert len(molecules.subset([])) == 0 and molecules.subset([]).species.shape == (0, 1)
    for wrong in ([4], np.array([True, False])):
        with pytest.raises(IndexError):
            molecules.subset(wrong)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=12, max_size=40),
    validation=st.floats(0.01, 0.5),
    seed=st.integers(0, 2**32),
)
def test_split_is_a_partition_that_keeps_groups_whole(sizes, validation, seed):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    molecules = named(*map(str, labels))
    train, held_out = M.split(molecules, validation, seed, groups=labels)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    assert not {labels[i] for i in train} & {labels[i] for i in held_out}
    assert 0 <= len(held_out) - max(1, round(validation * len(labels))) < max(sizes)
    for side, again in zip((train, held_out), M.split(molecules, validation, seed, labels), strict=True):
        np.testing.assert_array_equal(side, again)


def test_split_does_not_depend_on_the_order_of_rows():
    labels = [f"molecule {i}" for i in range(100)]
    _, held_out = M.split(named(*labels), 0.2, seed=3, groups=labels)
    backwards = labels[::-1]
    _, held_out_backwards = M.split(named(*backwards), 0.2, seed=3, groups=backwards)
    assert {labels[i] for i in held_out} == {backwards[i] for i in held_out_backwards}
    _, other = M.split(named(*labels), 0.2, seed=4, groups=labels)
    assert set(other.tolist()) != set(held_out.tolist())


def test_spellings_of_one_compound_never_straddle_a_split():
    pytest.importorskip("rdkit")
    spellings = [("CCO", "OCC", "C(O)C"), ("c1ccccc1", "C1=CC=CC=C1"), ("CC(=O)O", "OC(C)=O"), ("O",), ("xyz_1",)]
    names = [name for compound in spellings for name in compound]
    assert M.canonical_smiles(["OCC", "xyz_1", "CCO"]) == ("CCO", "xyz_1", "CCO")
    for seed in range(10):
        _, held_out = M.split(named(*names), 0.3, seed)
        chosen = {names[i] for i in held_out}
        assert all(chosen.issuperset(c) or chosen.isdisjoint(c) for c in spellings)


def test_split_refuses_what_leaves_a_side_empty():
    with pytest.raises(ValueError, match="validation=0: give a fraction"):
        M.split(named("a", "b"), 0, seed=0, groups="ab")
    with pytest.raises(ValueError, match="2 molecules in 1 groups leave none to train on"):
        M.split(named("a", "b"), 0.5, seed=0, groups="aa")
    with pytest.raises(ValueError, match="1 groups for 2 molecules"):
        M.split(named("a", "b"), 0.5, seed=0, groups="a")


def test_without_rdkit_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"pip install 'equiscale\[data\]'"):
        M.split(named("a", "b"), 0.5, seed=0)
