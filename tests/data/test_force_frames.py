"""Frames with labels: what is let in, what is refused with which words, and that nothing is lost on the way."""

import numpy as np
import pytest

from equiscale.data.force_frames import ForceFrames, check_frame, from_records, from_records_skipping, split_frames
from equiscale.data.molecules import BadMolecule
from tests.data.force_records import record, water

FRAMES = from_records([record(0), water(1), record(2, "b"), water(3)], "test")


def test_frames_are_padded_to_the_longest_and_labels_kept():
    assert FRAMES.positions.shape == FRAMES.forces.shape == (4, 4, 3) and FRAMES.n_atoms.tolist() == [4, 3, 4, 3]
    assert not FRAMES.forces[1, 3].any() and FRAMES.cell is None
    np.testing.assert_allclose(FRAMES.forces[2], record(2).forces, rtol=1e-6)
    assert FRAMES.energies[2] == record(2).energy, "float64: nothing is rounded"
    rms = np.sqrt(np.mean(np.concatenate([r.forces for r in (record(0), water(1), record(2), water(3))]) ** 2))
    assert FRAMES.force_rms == pytest.approx(rms, rel=1e-6)


def test_records_of_frames_make_the_same_frames():
    again = from_records(FRAMES.records(), "test")
    for name, array in FRAMES.arrays().items():
        np.testing.assert_array_equal(getattr(again, name), array)
    assert again.groups == FRAMES.groups


def test_periodic_and_other_frames_stand_in_one_set():
    cell = np.diag([3.0, 4.0, 5.0])
    mixed = from_records([record(0, cell=cell, pbc=[True, True, False]), water(1)], "test")
    assert mixed.pbc.tolist() == [[True, True, False], [False] * 3]
    np.testing.assert_array_equal(mixed.cell, [cell, np.zeros((3, 3))])
    lattices = [(r.cell is not None, bool(np.any(r.pbc))) for r in mixed.records()]
    assert lattices == [(True, True), (True, False)]


@pytest.mark.parametrize(
    "changes, reason, message",
    [
        ({"energy": None}, "without energy", "frame 0 of a has no energy"),
        ({"forces": None}, "without forces", "name the right key"),
        ({"energy": np.inf}, "energy that is not finite", "energy inf"),
        ({"energy": "low"}, "labels that are no numbers", "low"),
        ({"forces": np.full((4, 3), np.nan)}, "force that is not finite", r"atom 0: force \[nan"),
        ({"forces": np.full((4, 3), 1e300)}, "force that is not finite", "inf"),
        ({"forces": np.zeros((5, 3))}, "shapes that disagree", r"4 atoms and forces of shape \(5, 3\)"),
        ({"forces": np.full((4, 3), 99.0)}, "force beyond 50 eV/angstrom", "raise max_force=50"),
        ({"charge": -1}, "net charge", "charge -1: leave it out or allow ions"),
        ({"pbc": [True] * 3}, "periodic without a cell", "give lattice vectors"),
        ({"pbc": [True] * 3, "cell": np.diag([1.0, 1.0, 0.0])}, "periodic without a cell", "give lattice vectors"),
        ({"positions": np.zeros((4, 3))}, "overlapping", "frame 0 of a"),
        ({"positions": np.full((4, 3), np.nan)}, "not finite", "frame 0 of a"),
        ({"elements": np.array([8, 6, 1, 999])}, "element", "999"),
        ({"elements": np.zeros(0, int), "positions": np.zeros((0, 3))}, "", "frame 0 of a"),
    ],
)
def test_what_is_no_frame_is_refused_by_name_and_counted(changes, reason, message):
    bad = record(0, **changes)
    with pytest.raises(BadMolecule, match=message) as raised:
        check_frame(bad, max_force=50.0)
    assert reason in raised.value.reason
    frames, report = from_records_skipping([bad, record(1), bad], "test", max_force=50.0)
    assert len(frames) == 1 and report.reasons == {raised.value.reason: 2}
    with pytest.raises(ValueError, match="no frame left of test"):
        from_records_skipping([bad], "test", max_force=50.0)


def test_ions_are_kept_when_asked_for_and_readers_complaints_pass_through():
    assert check_frame(record(0, charge=1), ions=True).energy == record(0).energy
    with pytest.raises(BadMolecule, match="cannot be read"):
        from_records([BadMolecule("of a kind", "it cannot be read")], "test")
    with pytest.raises(ValueError, match="no frame in test"):
        from_records([], "test")


def test_frames_of_a_molecule_or_of_a_formula_stay_on_one_side():
    frames = from_records([record(i, f"group {i % 4}") for i in range(12)] + [water(i) for i in range(12)], "test")
    for by, labels in (("group", frames.groups), ("formula", np.count_nonzero(frames.species, axis=1))):
        train, validation = split_frames(frames, 0.3, 0, by)
        sides = [{labels[i] for i in rows} for rows in (train, validation)]
        assert not sides[0] & sides[1] and len(train) + len(validation) == 24
    train, validation = split_frames(frames, 0.25, 0, "frame")
    assert len(validation) == 6 and sorted([*train, *validation]) == list(range(24))
    with pytest.raises(ValueError, match="by='molecule': split by group, formula, frame"):
        split_frames(frames, 0.3, 0, "molecule")


def test_a_subset_is_the_same_rows():
    some = FRAMES.subset([2, 0])
    assert some.groups == ("b", "a") and some.energies.tolist() == FRAMES.energies[[2, 0]].tolist()
    assert len(FRAMES.subset(np.array([True, False, False, True]))) == 2 and len(FRAMES.subset([])) == 0
    with pytest.raises(IndexError):
        FRAMES.subset([4])


def test_arrays_that_disagree_are_refused():
    arrays = FRAMES.arrays() | {"groups": FRAMES.groups, "source": "test"}
    with pytest.raises(ValueError, match=r"forces are float64 .*: give float32 \(4, 4, 3\)"):
        ForceFrames(**arrays | {"forces": FRAMES.forces.astype(float)})
    with pytest.raises(ValueError, match="give cell and pbc together"):
        ForceFrames(**arrays, cell=np.zeros((4, 3, 3), np.float32))
