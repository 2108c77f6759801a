import numpy as np
import pytest

from equiscale.data.labels import read_labels
from equiscale.data.molecules import from_records

TABLE = """name, gap, dip x, dip y, dip z
water, 0.6, 0.0, 1.5, -0.25
methane, 0.7, 0, 0,
ammonia, , 1, 2, 3
"""
NAMES = ("set.tar.xz:deep/water.xyz, frame 1", "methane", "folder/ammonia.sdf.gz, entry 2", "benzene")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_labels_find_their_molecules_by_title_or_file(table):
    molecules = from_records([(name, [1], [[0, 0, 0]]) for name in NAMES], "test")
    found = read_labels(table, {"gap": ["gap"], "dipole": ["dip x", "dip y", "dip z"]})(molecules)
    np.testing.assert_array_equal(found["gap"], [0.6, 0.7, np.nan, np.nan])
    np.testing.assert_array_equal(found["dipole"][[0, 2]], [[0.0, 1.5, -0.25], [1, 2, 3]])
    assert np.isnan(found["dipole"][1, 2]) and np.isnan(found["dipole"][3]).all()


def test_six_or_nine_columns_are_a_tensor(tmp_path):
    path = tmp_path / "tensors.csv"
    path.write_text("name,xx,xy,xz,yy,yz,zz\nwater,1,2,3,4,5,6\n")
    nine = ["xx", "xy", "xz", "xy", "yy", "yz", "xz", "yz", "zz"]
    read = read_labels(path, {"six": ["xx", "xy", "xz", "yy", "yz", "zz"], "nine": nine})
    found = read(from_records([("water", [1], [[0, 0, 0]]), ("benzene", [1], [[0, 0, 0]])], "test"))
    for values in found.values():
        np.testing.assert_array_equal(values[0], [[1, 2, 3], [2, 4, 5], [3, 5, 6]])
        assert values.shape == (2, 3, 3) and np.isnan(values[1]).all()


def test_what_a_table_does_not_hold_is_named(table):
    with pytest.raises(
        ValueError, match="label gap is energy: give one, three, six or nine of gap, dip x, dip y, dip z"
    ):
        read_labels(table, {"gap": ["energy"]})
    with pytest.raises(ValueError, match="give one, three, six or nine"):
        read_labels(table, {"dipole": ["dip x", "dip y"]})
    table.write_text(TABLE.replace("0.7", "high"))
    with pytest.raises(ValueError, match=r"table\.csv, line 3: .*'high'"):
        read_labels(table, {"gap": ["gap"]})
