"""Labelled frames on disk come back as they went, whole molecules on either side of a split."""

import numpy as np
import pytest

from equiscale.data.force_frames import from_records
from equiscale.data.stored_forces import open_forces, write_forces
from equiscale.data.stored_molecules import write_molecules
from tests.data.force_records import record, water

RECORDS = [record(i, f"group {i % 3}") for i in range(6)] + [water(i) for i in range(3)]


def test_frames_come_back_as_they_went(tmp_path):
    bad = record(9, energy=None)
    told = []
    _, report = write_forces(tmp_path / "set", [*RECORDS, bad], "springs", tell=told.append)
    assert report.reasons == {"without energy": 1}
    assert [str(t).split(":")[0] for t in told] == ["frame 9 of a has no energy"]
    stored = open_forces(tmp_path / "set")
    frames, wanted = stored.frames([0, 7, 3]), from_records([RECORDS[i] for i in (0, 7, 3)], "springs")
    for name, array in wanted.arrays().items():
        np.testing.assert_array_equal(getattr(frames, name), array)
    assert frames.groups[0] == frames.groups[2] != frames.groups[1], "groups are told apart, not spelled out"


def test_periodic_frames_keep_their_cells(tmp_path):
    cell = np.diag([9.0, 8.0, 7.0])
    write_forces(tmp_path / "set", [record(0, cell=cell, pbc=[True] * 3), water(1)], "springs")
    frames = open_forces(tmp_path / "set").frames(slice(None))
    np.testing.assert_array_equal(frames.cell, [cell, np.zeros((3, 3))])
    assert frames.pbc.tolist() == [[True] * 3, [False] * 3]


def test_a_set_of_something_else_and_a_set_of_nothing_are_refused(tmp_path):
    write_molecules(tmp_path / "molecules", [("a", [8], np.zeros((1, 3)))], "test", lambda *_: "a")
    with pytest.raises(ValueError, match="no set of forces, which has positions, species, forces"):
        open_forces(tmp_path / "molecules")
    with pytest.raises(ValueError, match=r"no frame left of test: .*without forces"):
        write_forces(tmp_path / "empty", [record(0, forces=None)], "test")
    assert not (tmp_path / "empty").exists()
