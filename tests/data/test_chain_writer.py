"""Chains written as PDB files come back through the reader."""

import numpy as np
import pytest

from equiscale.data.chain_readers import read_chains
from equiscale.data.chain_writer import write_pdb
from equiscale.data.chains import Chains
from equiscale.data.synthetic_chains import synthetic_chains


def test_what_is_written_is_read_again(tmp_path):
    made = synthetic_chains(2, 12)
    paths = write_pdb(tmp_path / "pdb", made)
    assert [path.name for path in paths] == ["synthetic_0.pdb", "synthetic_1.pdb"]
    for row, path in enumerate(paths):
        (record,) = read_chains(path)
        np.testing.assert_allclose(record.positions, made[row], atol=6e-5)  # the format has 0.001 angstrom
        assert record.sequence == "G" * 12 and list(record.numbers - record.numbers[0]) == list(range(12))


def test_names_must_differ_and_coordinates_fit(tmp_path):
    made = synthetic_chains(1, 8)
    twice = Chains(*(np.repeat(a, 2, 0) for a in (made.positions, made.index, made.breaks)), ("a b", "a/b"), ("",) * 2,
                   ("",) * 2, "")  # fmt: skip
    with pytest.raises(ValueError, match="two chains are named a_b"):
        write_pdb(tmp_path, twice)
    with pytest.raises(ValueError, match="'synthetic 0' reaches"):
        write_pdb(tmp_path, Chains(made.positions * 1e3, made.index, made.breaks, made.names, ("",), ("",), ""))
