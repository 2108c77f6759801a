"""On disk or in memory, in one bucket or several: the same molecules to train on."""

import jax
import numpy as np
import pytest

from equiscale.data.molecules import BadMolecule, from_records
from equiscale.data.stored import write_set
from equiscale.data.stored_molecules import formula, open_molecules, split_compounds, write_molecules
from equiscale.data.voxels import Grid
from equiscale.tasks import molecule_sets
from equiscale.tasks.task import first_of, size_of

GRID = Grid(16, 0.5, ("C", "H", "O"))


def records(n=60):
    """Random places near the origin, in various sizes: shapes for tests, no chemistry."""
    rng = np.random.default_rng(0)
    for i in range(n):
        size = int(rng.integers(1, 9))
        yield f"random {i}", rng.choice([1, 6, 8], size), rng.normal(size=(size, 3)) + 3


@pytest.fixture
def stored(tmp_path):
    return write_molecules(tmp_path / "set", records(), "random points", lambda name, numbers: name)[0]


def test_stored_molecules_are_those_in_memory(stored):
    wanted = from_records(records(), "random points")
    found = open_molecules(stored.set.folder).subset(slice(None))
    np.testing.assert_array_equal(found.positions, wanted.positions)
    np.testing.assert_array_equal(found.species, wanted.species)
    assert stored.select([5, 3]).subset([1]).names == ("row 3",)


def test_bad_records_are_left_out_and_counted(tmp_path):
    bad = [("nan", [6], [[0, 0, np.nan]]), ("odd", ["Xx"], [[0, 0, 0]]), BadMolecule("that cannot be read", "no")]
    molecules, report = write_molecules(tmp_path / "set", [*bad, *records(3)], "test", lambda name, n: formula(n))
    assert len(molecules) == 3 == report.kept and report.total == 6
    assert set(report.reasons) == {
        "with a coordinate that is not finite",
        "holding an unknown element",
        "that cannot be read",
    }


def test_compounds_stay_on_one_side_whatever_is_added(tmp_path):
    few, _ = write_molecules(tmp_path / "few", records(40), "test", lambda name, n: formula(n))
    more, _ = write_molecules(tmp_path / "more", records(60), "test", lambda name, n: formula(n))
    train, held_out = split_compounds(few, 0.3, seed=1)
    assert not set(few.compounds[train]) & set(few.compounds[held_out])
    _, later = split_compounds(more, 0.3, seed=1)
    assert set(held_out) == {row for row in later if row < 40}, "adding molecules moves none across"
    assert set(split_compounds(few, 0.3, seed=2)[1]) != set(held_out)
    shares = [len(split_compounds(more, 0.5, seed)[1]) / 60 for seed in range(30)]
    assert 0.4 < np.mean(shares) < 0.6


def test_a_split_that_leaves_a_side_empty_says_so(tmp_path):
    one, _ = write_molecules(tmp_path / "one", records(4), "test", lambda name, n: "same")
    with pytest.raises(ValueError, match="4 molecules of 1 compounds"):
        split_compounds(one, 0.5, seed=0)
    with pytest.raises(ValueError, match=r"validation=1\.5"):
        split_compounds(one, 1.5, seed=0)


@pytest.mark.parametrize("buckets", [1, 3])
def test_streamed_training_sets_are_those_in_memory(stored, buckets):
    in_memory = molecule_sets.training_sets(stored.subset(slice(None)), buckets)
    streamed = molecule_sets.training_sets(stored, buckets)
    assert [size_of(s) for s in streamed] == [size_of(s) for s in in_memory] and len(streamed) == buckets
    assert sum(map(size_of, streamed)) == 60
    for a, b in zip(streamed, in_memory, strict=True):
        rows = first_of(a, 100)
        np.testing.assert_allclose(rows.positions, b.positions, atol=1e-6)
        np.testing.assert_array_equal(rows.species, b.species)
        assert np.count_nonzero(rows.species, axis=1).max() == rows.species.shape[1], "no longer than it has to be"
        np.testing.assert_allclose(rows.positions.sum(1), 0, atol=1e-5)


def test_a_stored_set_is_filtered_and_split(stored):
    found = molecule_sets.load_stored(str(stored.set.folder), GRID, validation=0.2, most_validation=5, seed=0)
    assert len(found.validation) <= 5 and len(found.train) > 30
    assert "60 molecules" in found.reports[0] and "kept" in found.reports[1]
    with pytest.raises(ValueError, match="no molecule fits the grid"):
        molecule_sets.load_stored(
            str(stored.set.folder), Grid(16, 0.5, ("N",)), validation=0.2, most_validation=5, seed=0
        )


def test_a_fraction_is_part_of_a_larger_one(stored):
    for molecules in (stored, stored.subset(slice(None))):
        parts = [molecule_sets.fraction_of(molecules, f, seed=3) for f in (0.01, 0.1, 0.5, 1.0)]
        assert [len(part) for part in parts] == [1, 6, 30, 60]
        names = [set((p.subset(slice(None)) if p.__class__ is type(stored) else p).names) for p in parts]
        assert names[0] < names[1] < names[2] < names[3]
    with pytest.raises(ValueError, match=r"data\.fraction=0"):
        molecule_sets.fraction_of(stored, 0.0, seed=0)


def test_a_set_of_other_things_is_refused(tmp_path):
    write_set(tmp_path / "set", [({"charge": np.zeros(3)}, {})], "test")
    with pytest.raises(ValueError, match="holds charge: no set of molecules"):
        open_molecules(tmp_path / "set")


def test_batches_pad_the_last():
    data = molecule_sets.structures(from_records(records(5), "test"))
    parts = molecule_sets.batches(data, 3)
    assert [part.weight.tolist() for part in parts] == [[1, 1, 1], [1, 1, 0]]
    assert jax.tree.leaves(parts[1])[0].shape[0] == 3
