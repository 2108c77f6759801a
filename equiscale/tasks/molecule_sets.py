"""Molecules as tasks take them: filtered, split by compound, in shape buckets, in memory or streamed from disk."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from equiscale.data import nci
from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.molecules import Molecules, centred, split
from equiscale.data.stored_molecules import StoredMolecules, open_molecules, split_compounds
from equiscale.data.voxels import Grid, centre, check_fits
from equiscale.tasks.task import Rows, Streamed, Task

MARGIN = 1.0  # angstrom between an atom and the grid's faces, where its density is down to 0.01


class Structures(NamedTuple):
    """Molecules as arrays; `weight` 0 marks padding of the last batch, `ids` seed noise, `labels` are a task's own."""

    positions: Float[Array, "n atoms 3"]  # angstrom, centred
    species: Int[Array, "n atoms"]
    ids: Int[Array, " n"]
    weight: Float[Array, " n"]
    labels: Any = ()  # a pytree of arrays [n, ...]


class MoleculeSplit(NamedTuple):
    """Molecules, of a task with a grid those that fit it in any orientation, split by compound, and what was left
    out.
    """

    train: Molecules | StoredMolecules
    validation: Molecules
    reports: tuple[str, ...]


def load_nci(
    grid: Grid,
    *,
    limit: int,
    max_heavy_atoms: int,
    validation: float,
    seed: int,
    margin: float = MARGIN,
    cache_dir: str | None = None,
) -> MoleculeSplit:
    """Real compounds from RDKit's NCI list with ETKDG conformers, kept if they fit `grid` however they are turned.

    `limit` bounds the compounds taken from the list (before the grid's own filter); atoms keep `margin` angstrom from
    the grid's faces. Raises what `nci.load` and
    `split` raise, and ValueError if nothing fits.
    """
    molecules, listed = nci.load(
        grid.elements, limit=limit, max_heavy_atoms=max_heavy_atoms, seed=seed, cache_dir=cache_dir
    )
    fits, fitted = check_fits(molecules, grid, margin=margin)
    _refuse_nothing(fits, fitted, "enlarge grid.length or lower max_heavy_atoms")
    molecules = molecules.subset(fits)
    train, held_out = split(molecules, validation, seed)
    return MoleculeSplit(
        molecules.subset(train), molecules.subset(held_out), (f"{molecules.source}: {listed}", f"grid: {fitted}")
    )


def load_stored(
    folder: str, grid: Grid | None, *, validation: float, most_validation: int, seed: int, margin: float = MARGIN
) -> MoleculeSplit:
    """A set of molecules on disk (made by `experiments.prepare_data`), kept if they fit `grid` however they are turned.

    Without a grid all are kept. Training molecules stay there; the first `most_validation` of those held out are read.
    Raises what `open_molecules` and `split_compounds` raise, and ValueError if nothing fits.
    """
    molecules = open_molecules(folder)
    reports = (f"{molecules.source}: {len(molecules):,} molecules in {folder}",)
    if grid is not None:
        fits, fitted = molecules.mask(lambda some: check_fits(some, grid, margin=margin))
        _refuse_nothing(fits, fitted, "enlarge grid.length or add grid.elements")
        molecules, reports = molecules.select(fits), (*reports, f"grid: {fitted}")
    train, held_out = split_compounds(molecules, validation, seed)
    return MoleculeSplit(
        molecules.select(train),
        molecules.subset(held_out[:most_validation]),
        reports,
    )


def _refuse_nothing(fits: np.ndarray, report, fix: str) -> None:
    if not fits.any():
        raise ValueError(f"no molecule fits the grid ({report}); {fix}")


def fraction_rows(n: int, fraction: float, seed: int) -> np.ndarray:
    """Random ones of n, at least one, ascending; of the same seed, those of a smaller fraction are among a larger's.

    Raises ValueError for a fraction that is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"data.fraction={fraction}: give a number above 0 and at most 1")
    if fraction == 1:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[: max(1, round(fraction * n))])


def fraction_of(molecules: Molecules | StoredMolecules, fraction: float, seed: int) -> Molecules | StoredMolecules:
    """The rows of `fraction_rows`; all molecules as they are where the fraction is 1."""
    rows = fraction_rows(len(molecules), fraction, seed)
    if fraction == 1:
        return molecules
    return molecules.select(rows) if hasattr(molecules, "select") else molecules.subset(rows)  # on disk, or in memory


def structures(molecules: Molecules, labels: Any = ()) -> Structures:
    """Centred positions on the device, with ids counting up."""
    n = len(molecules)
    positions, species = jnp.asarray(molecules.positions), jnp.asarray(molecules.species)
    return Structures(
        centre(positions, species), species, jnp.arange(n), jnp.ones(n), jax.tree.map(jnp.asarray, labels)
    )


def training_sets(
    molecules: Molecules | StoredMolecules, most_buckets: int, labels: Any = ()
) -> list[Structures | Streamed]:
    """One set a shape bucket, padded to its longest molecule; those on disk are streamed.

    `labels` are a pytree of NumPy arrays, one row a molecule. A single bucket of molecules in memory stays padded as
    it is.
    """
    lengths = bucket_lengths(molecules.n_atoms, most_buckets)
    rows = bucket_rows(molecules.n_atoms, lengths)
    if len(rows) == 1 and isinstance(molecules, Molecules):
        return [structures(molecules, labels)]
    labelled = [jax.tree.map(lambda a: a[r], labels) for r in rows]  # noqa: B023
    if isinstance(molecules, StoredMolecules):
        return [
            _streamed(molecules.select(r), length, of) for r, length, of in zip(rows, lengths, labelled, strict=True)
        ]
    return [
        structures(Molecules(m.positions[:, :length], m.species[:, :length], m.names, m.source), of)
        for m, length, of in zip((molecules.subset(r) for r in rows), lengths, labelled, strict=True)
    ]


def _streamed(molecules: StoredMolecules, length: int, labels: Any) -> Streamed:
    def read(indices: np.ndarray) -> Structures:
        positions, species = molecules.read(indices, length)
        ids = molecules.rows[indices].astype(np.int32)
        weight = np.ones(len(indices), np.float32)
        of_rows = jax.tree.map(lambda a: a[indices], labels)
        return Structures(centred(positions, species), species, ids, weight, of_rows)

    return Streamed(len(molecules), read)


class Experiment(NamedTuple):
    """A configured task with what its report needs besides."""

    task: Task
    grid: Grid  # that its molecules fit
    molecules: MoleculeSplit
    validation: Molecules  # those that are measured
    constants: Mapping[str, Any] = MappingProxyType({})  # that predictions are to be read with; kept in the run folder

    @property
    def reports(self) -> tuple[str, ...]:
        """Where the data is from and what was left out."""
        return self.molecules.reports


class Loaded(NamedTuple):
    """The molecules of a config: `train` in shape buckets, `validation` those that are measured, of a `split`."""

    train: list[Structures | Streamed]
    validation: Molecules
    split: MoleculeSplit


def load(config: ConfigDict, grid: Grid, cache_dir: str | None = None) -> Loaded:
    """The molecules that a task's config asks for; of the same fields, the same molecules.

    Raises what `load_split` and `fraction_of` raise.
    """
    found = load_split(config, grid, cache_dir)
    train = training_sets(fraction_of(found.train, config.data.fraction, config.seed), config.data.buckets)
    return Loaded(train, measured(config, found.validation), found)


def load_split(config: ConfigDict, grid: Grid, cache_dir: str | None = None) -> MoleculeSplit:
    """All of them, from the configured folder or RDKit's list. Raises what `load_nci` and `load_stored` raise."""
    common = {"validation": config.data.validation, "seed": config.seed, "margin": MARGIN + config.translation}
    if config.data.folder:
        return load_stored(config.data.folder, grid, most_validation=config.evaluation.molecules, **common)
    sizes = {"limit": config.data.limit, "max_heavy_atoms": config.data.max_heavy_atoms}
    return load_nci(grid, **sizes, **common, cache_dir=cache_dir)


def measured(config: ConfigDict, validation: Molecules) -> Molecules:
    """The first of the molecules held out, as many as are evaluated."""
    return validation.subset(np.arange(min(config.evaluation.molecules, len(validation))))


def batches(data: Rows, batch_size: int) -> list[Rows]:
    """Consecutive batches of one size, of rows with a `weight`; the last is padded with repeats of weight 0."""
    n = len(data.weight)
    rows = np.minimum(np.arange(-(-n // batch_size) * batch_size), n - 1)
    present = jnp.asarray(np.arange(len(rows)) < n, float)
    padded = jax.tree.map(lambda a: a[rows], data)._replace(weight=present)
    return [
        jax.tree.map(lambda a: a[i : i + batch_size], padded)  # noqa: B023
        for i in range(0, len(rows), batch_size)
    ]
