"""Batches are a pure function of (seed, step), and an epoch goes through every set."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equiscale.tasks.task import Streamed
from equiscale.training.batches import make_draw, make_feed
from equiscale.training.devices import make_mesh


@settings(max_examples=12)  # each size compiles a permutation
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), batch_size=st.integers(1, 12), seed=st.integers(0, 9)
)
def test_an_epoch_is_whole_batches_of_every_set_in_a_new_order(sizes, batch_size, seed):
    draw = make_draw(jax.random.key(seed), sizes, batch_size)
    per_set = [max(n // batch_size, 1) for n in sizes]
    for epoch in range(2):
        drawn = [draw(epoch * sum(per_set) + i) for i in range(sum(per_set))]
        for bucket, n in enumerate(sizes):
            rows = np.concatenate([d.indices for d in drawn if d.bucket == bucket])
            assert len(rows) == per_set[bucket] * batch_size
            counts = np.bincount(rows, minlength=n)
            assert len(counts) == n and counts.max() - counts.min() <= 1, "no example twice before every one once"


def test_any_step_is_found_without_those_before():
    draw, again = (make_draw(jax.random.key(3), [10, 7], 3) for _ in range(2))
    straight = [draw(step) for step in range(20)]
    for step in (19, 4, 11):
        np.testing.assert_array_equal(again(step).indices, straight[step].indices)
        assert again(step).bucket == straight[step].bucket
    orders = {tuple(np.concatenate([d.indices for d in straight[e : e + 5]])) for e in (0, 5, 10, 15)}
    assert len(orders) == 4, "each epoch has an order of its own"
    other = make_draw(jax.random.key(4), [10, 7], 3)
    assert any((other(s).indices != straight[s].indices).any() for s in range(5))


def test_sets_mix_within_an_epoch():
    draw = make_draw(jax.random.key(0), [40, 40], 2)
    buckets = [draw(step).bucket for step in range(40)]
    assert 0 < sum(buckets[:20]) < 20 and sum(buckets) == 20


def test_an_epoch_takes_one_member_of_every_cluster():
    labels = np.array([5, 2, 2, 9, 2, 5, 7, 9])
    draw = make_draw(jax.random.key(0), [8], 2, [labels])
    members = []
    for epoch in range(30):
        rows = np.concatenate([draw(2 * epoch + i).indices for i in range(2)])
        assert sorted(labels[rows]) == [2, 5, 7, 9]
        members.append(rows)
    assert {tuple(sorted(rows)) for rows in members} > {(0, 1, 3, 6)}, "in time, every member"
    assert len(set(np.concatenate(members))) == 8 and len({tuple(labels[rows]) for rows in members}) > 10
    with pytest.raises(ValueError, match=r"clusters of \[8\] examples for sets of \[7\]"):
        make_feed([np.zeros(7)], jax.random.key(0), 2, make_mesh(), [labels])


def test_a_stream_reads_ahead_of_the_step_and_each_batch_once():
    read = []

    def rows(indices):
        read.append(indices)
        return {"x": indices.astype(np.float32)}

    mesh = make_mesh()
    key = jax.random.key(1)
    batches = make_feed([Streamed(20, rows)], key, 4, mesh).batches(2, 7)
    draw = make_draw(key, [20], 4)
    got = [np.asarray(given["x"]) for _, given in batches]
    np.testing.assert_array_equal(np.stack(got), np.stack([draw(step).indices for step in range(2, 7)]))
    assert len(np.unique(np.sort(np.concatenate(read)), return_counts=True)[0]) <= 20
    n_parts = len(read) // 5
    assert len(read) == 5 * n_parts, "each batch is read once, in as many parts as devices hold"


@pytest.mark.parametrize("sets", [[], [np.zeros((0, 3))]])
def test_no_examples_is_an_error(sets):
    with pytest.raises(ValueError, match="at least one"):
        make_feed(sets, jax.random.key(0), 2, make_mesh())


def test_streams_and_arrays_do_not_mix():
    with pytest.raises(ValueError, match="all of one kind"):
        make_feed([np.zeros((4, 3)), Streamed(4, lambda i: i)], jax.random.key(0), 2, make_mesh())
