"""Chains as tasks take them: whole or cut, split by cluster, in shape buckets, in memory or streamed from disk."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.chain_crops import crops
from equiscale.data.chains import Chains, split_chains
from equiscale.data.force_frames import evenly
from equiscale.data.stored_chains import StoredChains, open_chains, split_clusters
from equiscale.data.synthetic_chains import synthetic_chains
from equiscale.tasks.molecule_sets import fraction_of
from equiscale.tasks.task import Streamed

WHOLE = 128  # residues of synthetic chains that are not cut


class ChainRows(NamedTuple):
    """Chains as arrays; `weight` 0 marks padding of the last batch, `ids` seed noise."""

    positions: Float[Array, "n residues 3"]  # nm, centred, 0 on padding
    index: Int[Array, "n residues"]  # residue numbers from 1 on, 0 on padding
    breaks: Bool[Array, "n residues"]  # whether the next residue is not bonded to this one
    ids: Int[Array, " n"]
    weight: Float[Array, " n"]


class ChainSets(NamedTuple):
    """What a config asks for: training sets in shape buckets with the clusters of their chains, if epochs go by these,
    the chains that are measured, and reports.
    """

    train: list[ChainRows | Streamed]
    clusters: list[np.ndarray] | None
    validation: ChainRows
    measured: Chains
    reports: tuple[str, ...]


def load(config: ConfigDict) -> ChainSets:
    """The chains of a config, from its folder or synthetic ones; of the same fields, the same chains.

    Those of a folder that are not cut stay there and are streamed. Raises ValueError for lengths out of range, and
    what `open_chains`, `synthetic_chains`, `crops` and the splits raise.
    """
    data, length = config.data, config.data.length
    if length < 0:
        raise ValueError(f"data.length={length}: give the residues that chains are cut to, or 0 to leave them whole")
    if data.folder:
        stored = open_chains(data.folder)
        told = f"{stored.source}: {len(stored):,} chains in {data.folder}"
        train, held_out = split_clusters(stored, data.validation, config.seed)
        train, held_out = fraction_of(stored.select(train), data.fraction, config.seed), stored.subset(held_out)
        train = crops(train.subset(slice(None)), length) if length else train
    else:
        made = synthetic_chains(data.chains, length or WHOLE, data.seed)
        told = made.source
        train, held_out = (made.subset(rows) for rows in split_chains(made, data.validation, config.seed))
        train = fraction_of(train, data.fraction, config.seed)
    held_out = crops(held_out, length) if length else held_out
    measured = held_out.subset(evenly(len(held_out), config.evaluation.molecules))
    lengths = bucket_lengths(train.n_residues, data.buckets)
    rows = bucket_rows(train.n_residues, lengths)
    make = _streamed if isinstance(train, StoredChains) else _in_memory
    labels = np.unique(np.asarray(train.clusters), return_inverse=True)[1]
    reports = (
        told,
        f"{len(train):,} {f'windows of {length} residues' if length else 'chains'} of {labels.max() + 1:,} clusters to "
        f"train on, in buckets of {', '.join(map(str, lengths))} residues; {len(measured):,} measured",
    )
    return ChainSets(
        [make(train, r, n) for r, n in zip(rows, lengths, strict=True)],
        [labels[r] for r in rows] if data.by_cluster else None,
        jax.tree.map(jnp.asarray, chain_rows(measured)),
        measured,
        reports,
    )


def chain_rows(chains: Chains, length: int | None = None, ids: np.ndarray | None = None) -> ChainRows:
    """Chains as host arrays, padded to `length` (default: as they are); ids by default count up."""
    n = len(chains)
    arrays = (a[:, :length] for a in (chains.positions, chains.index, chains.breaks))
    return ChainRows(*arrays, np.arange(n) if ids is None else ids, np.ones(n, np.float32))


def _in_memory(chains: Chains, rows: np.ndarray, length: int) -> ChainRows:
    return jax.tree.map(jnp.asarray, chain_rows(chains.subset(rows), length))


def _streamed(chains: StoredChains, rows: np.ndarray, length: int) -> Streamed:
    some = chains.select(rows)

    def read(indices: np.ndarray) -> ChainRows:
        return chain_rows(some.subset(indices, length), length, some.rows[indices].astype(np.int32))

    return Streamed(len(some), read)
