"""Which examples make a step's batch, as a pure function of (seed, step), and how they get to the devices.

Sets that are arrays stay on the devices, where a batch is taken from them; `Streamed` ones are read ahead by threads.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PRNGKeyArray

from equiscale.tasks.task import Rows, Streamed, size_of
from equiscale.training.devices import everywhere, place_batch

THREADS, AHEAD = 4, 8  # that read, and batches they read ahead


class Drawn(NamedTuple):
    """A batch: the set it is from, and rows of it."""

    bucket: int
    indices: np.ndarray


def make_draw(
    key: PRNGKeyArray, sizes: Sequence[int], batch_size: int, clusters: Sequence[np.ndarray] | None = None
) -> Callable[[int], Drawn]:
    """`step -> Drawn` for sets of these sizes; a batch comes from one set.

    An epoch goes through every set once, in whole batches of a new order, the sets' batches mixed. What does not fill
    a batch is left out of the epoch; a set smaller than a batch is repeated within it. With `clusters`, a label of each
    example of each set, an epoch takes one random member of every cluster in the place of all.
    """
    if clusters is None:
        orders_of = [functools.partial(jax.random.permutation, x=n) for n in sizes]
    else:
        orders_of = [_members(labels) for labels in clusters]
        sizes = cluster_sizes(clusters)
    per_set = batches_per_epoch(sizes, batch_size)
    per_epoch = sum(per_set)

    @functools.lru_cache(maxsize=2)
    def epoch(number: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        with _on_host():
            of_epoch = jax.random.fold_in(key, number)
            if len(sizes) == 1:
                orders, sets = [orders_of[0](of_epoch)], np.zeros(per_epoch, int)
            else:
                of_sets, of_mixing = jax.random.split(of_epoch)
                keys = jax.random.split(of_sets, len(sizes))
                orders = [order(k) for order, k in zip(orders_of, keys, strict=True)]
                sets = jax.random.permutation(of_mixing, np.repeat(np.arange(len(sizes)), per_set))
            sets = np.asarray(sets)
        turn = np.zeros(per_epoch, int)  # of each batch within its set
        for bucket, n in enumerate(per_set):
            turn[sets == bucket] = np.arange(n)
        return sets, [np.asarray(order) for order in orders], turn

    def draw(step: int) -> Drawn:
        sets, orders, turn = epoch(step // per_epoch)
        at = step % per_epoch
        bucket = int(sets[at])
        rows = (turn[at] * batch_size + np.arange(batch_size)) % sizes[bucket]
        return Drawn(bucket, orders[bucket][rows])

    return draw


def cluster_sizes(clusters: Sequence[np.ndarray]) -> list[int]:
    """Clusters in each set."""
    return [len(np.unique(labels)) for labels in clusters]


def batches_per_epoch(sizes: Sequence[int], batch_size: int) -> list[int]:
    """Of each set: whole ones, and at least one."""
    return [max(n // batch_size, 1) for n in sizes]


def _members(labels: np.ndarray) -> Callable[[PRNGKeyArray], np.ndarray]:
    """An order of one random member of every cluster."""

    def order(key: PRNGKeyArray) -> np.ndarray:
        shuffled = np.asarray(jax.random.permutation(key, len(labels)))
        _, first = np.unique(labels[shuffled], return_index=True)  # the first of each cluster that comes
        return shuffled[np.sort(first)]

    return order


def _on_host():
    """Orders are drawn where the devices need not be waited for; the numbers are the same on any backend."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to load an accelerator's backend alone
        return jax.default_device(jax.local_devices()[0])


class Feed(NamedTuple):
    """Batches for the compiled update, by step.

    `batches(first, last)` gives `(bucket, rows)` for each step; `example(bucket)` are some rows, to compile with.
    """

    n_buckets: int
    batches: Callable[[int, int], Iterator[tuple[int, Rows]]]
    example: Callable[[int], Rows]


def make_feed(
    sets: Sequence[Rows | Streamed],
    key: PRNGKeyArray,
    batch_size: int,
    mesh: Mesh,
    clusters: Sequence[np.ndarray] | None = None,
) -> Feed:
    """The feed of a task's training sets, `clusters` as for `make_draw`.

    Raises ValueError without any set and for clusters of other sizes, ImportError where streaming needs grain.
    """
    if not sets or not all(map(size_of, sets)):
        raise ValueError(
            f"training sets of {[size_of(s) for s in sets]} examples: give at least one, none of them empty"
        )
    sizes = [size_of(s) for s in sets]
    if clusters is not None and [len(labels) for labels in clusters] != sizes:
        raise ValueError(f"clusters of {[len(c) for c in clusters]} examples for sets of {sizes}: label every example")
    draw = make_draw(key, sizes, batch_size, clusters)
    streamed = [isinstance(s, Streamed) for s in sets]
    if any(streamed) and not all(streamed):
        raise ValueError("some training sets are streamed and some are not: give all of one kind")
    return _streaming(sets, draw, batch_size, mesh) if all(streamed) else _resident(sets, draw, batch_size, mesh)


def _resident(sets: Sequence[Rows], draw: Callable[[int], Drawn], batch_size: int, mesh: Mesh) -> Feed:
    data = [everywhere(rows, mesh) for rows in sets]

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def take(rows, indices):
        return jax.tree.map(lambda a: a[indices], rows)

    def batches(first: int, last: int):
        for step in range(first, last):
            bucket, indices = draw(step)
            yield bucket, take(data[bucket], indices)

    return Feed(len(sets), batches, lambda bucket: take(data[bucket], np.zeros(batch_size, int)))


def _streaming(sets: Sequence[Streamed], draw: Callable[[int], Drawn], batch_size: int, mesh: Mesh) -> Feed:
    try:
        import grain
    except ImportError as error:
        raise ImportError("reading sets from disk needs grain: pip install 'equiscale[stream]'") from error

    def place(bucket: int, indices: np.ndarray):
        return place_batch(lambda part: sets[bucket].read(indices[part]), batch_size, mesh)

    def batches(first: int, last: int):
        read = grain.MapDataset.range(first, last).map(lambda step: (lambda d: (d.bucket, place(*d)))(draw(int(step))))
        yield from read.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))

    return Feed(len(sets), batches, lambda bucket: place(bucket, np.zeros(batch_size, int)))
