import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.stored import open_set, write_set


def example(seed, length):
    rng = np.random.default_rng(seed)
    ragged = {
        "positions": rng.normal(size=(length, 3)).astype(np.float32),
        "species": rng.integers(1, 9, length).astype(np.int32),
    }
    return ragged, {"energy": np.float64(rng.normal()), "cell": rng.normal(size=(3, 3))}


EXAMPLES = [example(i, length) for i, length in enumerate([5, 1, 7, 3, 7, 2])]


@pytest.fixture
def stored(tmp_path):
    return write_set(tmp_path / "set", iter(EXAMPLES), "test examples")


def test_what_is_read_is_what_was_written(stored):
    again = open_set(stored.folder)
    assert len(again) == 6 and again.source == "test examples" and again.lengths.tolist() == [5, 1, 7, 3, 7, 2]
    rows = again.read(np.array([2, 0, 1, 2]), 8)
    assert rows["positions"].shape == (4, 8, 3) and rows["energy"].shape == (4,) and rows["cell"].shape == (4, 3, 3)
    for row, i in enumerate([2, 0, 1, 2]):
        ragged, whole = EXAMPLES[i]
        for name, array in ragged.items():
            np.testing.assert_array_equal(rows[name][row, : len(array)], array)
            assert not rows[name][row, len(array) :].any(), "zero beyond its end"
        for name, value in whole.items():
            np.testing.assert_array_equal(rows[name][row], value)


def test_an_example_longer_than_asked_for_is_named(stored):
    with pytest.raises(ValueError, match=r"example 4 of .* has 7 entries, more than the 6 asked for"):
        stored.read(np.array([0, 4]), 6)


def test_a_set_is_written_whole_or_not_at_all(tmp_path):
    def dies():
        yield from EXAMPLES[:3]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_set(tmp_path / "set", dies(), "test")
    with pytest.raises(FileNotFoundError, match="holds no stored set"):
        open_set(tmp_path / "set")
    assert len(write_set(tmp_path / "set", iter(EXAMPLES), "test")) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    with pytest.raises(FileExistsError, match="delete it"):
        write_set(tmp_path / "set", iter(EXAMPLES), "test")


def test_a_cut_or_missing_file_is_named(stored, tmp_path):
    for name, damage in (
        ("positions.bin", lambda p: p.write_bytes(p.read_bytes()[:-4])),
        ("cell.bin", lambda p: p.unlink()),
    ):
        copy = tmp_path / name
        shutil.copytree(stored.folder, copy)
        damage(copy / name)
        with pytest.raises(ValueError, match=rf"{name} holds [\d,]+ bytes where [\d,]+ belong"):
            open_set(copy)


def test_another_format_is_refused(stored):
    path = stored.folder / "set.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="format 99, this version reads 1"):
        open_set(stored.folder)


@pytest.mark.parametrize(
    "changed, message",
    [
        (({"positions": np.zeros((4, 3), np.float32), "species": np.zeros(3, np.int32)}, {}), "lengths .*4.*3"),
        (({"positions": np.zeros((0, 3), np.float32)}, {}), "at least 1"),
        ((example(0, 4)[0], {"energy": np.float32(1), "cell": np.zeros((3, 3))}), "example 1 has fields"),
    ],
)
def test_an_example_unlike_the_others_is_named(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_set(tmp_path / "set", iter([EXAMPLES[0], changed]), "test")


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no example in an empty list"):
        write_set(tmp_path / "set", iter([]), "an empty list")


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=25), most=st.integers(1, 4))
def test_buckets_hold_everything_with_the_least_padding(lengths, most):
    import itertools

    lengths = np.array(lengths)
    padded = bucket_lengths(lengths, most)
    rows = bucket_rows(lengths, padded)
    assert len(padded) <= most and sorted(np.concatenate(rows)) == list(range(len(lengths)))
    slots = sum(len(r) * p for r, p in zip(rows, padded, strict=True))
    values = sorted(set(lengths.tolist()))
    others = itertools.combinations(values[:-1], min(most, len(values)) - 1)
    best = min(sum(min(p for p in (*o, values[-1]) if p >= n) for n in lengths) for o in others)
    assert slots == best


def test_a_length_beyond_the_buckets_is_named():
    with pytest.raises(ValueError, match=r"example 1 has length 9; the longest bucket holds 8"):
        bucket_rows(np.array([3, 9]), [4, 8])
