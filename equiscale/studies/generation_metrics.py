"""Metrics of generated molecules, one function each: of `Statistics`, with a weight for each molecule.

Weights `[..., n]` say how often each generated molecule counts, by default once: a bootstrap is one call with the
counts of its draws. The result has the leading shape of the weights; NaN stands for what no molecule defines.

Names that begin with `midi_` are as published and as VoxMol's tables report them, by the code of MiDi (arXiv
2302.09048); where that has a peculiarity, the plain name is the metric without it. Unlike there, where OpenBabel
perceives the bonds and all charges are 0, bonds and charges are those of `equiscale.data.chemistry`.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from equiscale.studies.molecule_statistics import BOND_TYPES, N_ELEMENTS, Sample, Statistics

Weights = Float[np.ndarray, "... n"]
Value = Float[np.ndarray, "..."]

LENGTH_BINS = 100  # MiDi's, per angstrom
ANGLE_BINS = 10  # MiDi's, per degree
SPARSE = 0.7  # MiDi computes no angles where fewer pairs than this are without a bond


# --- of molecules alone ----------------------------------------------------------------------------------------------


def validity(generated: Statistics, weights: Weights | None = None) -> Value:
    """Molecules whose largest part passes RDKit's sanitisation, of all."""
    return _mean(generated.valid, weights)


def connected(generated: Statistics, weights: Weights | None = None) -> Value:
    """Molecules in one part, of all."""
    return _mean(generated.n_fragments == 1, weights)


def atom_stability(generated: Statistics, weights: Weights | None = None) -> Value:
    """Atoms whose valence is one of `STABLE_VALENCES`, of all atoms: EDM (arXiv 2203.17003), by MiDi's table."""
    weights = _weights(generated, weights)
    return ratio(weights @ generated.n_stable, weights @ generated.n_atoms)


def molecule_stability(generated: Statistics, weights: Weights | None = None) -> Value:
    """Molecules of which all atoms are stable, of all; one without atoms is not."""
    return _mean((generated.n_stable == generated.n_atoms) & (generated.n_atoms > 0), weights)


def uniqueness(generated: Statistics) -> float:
    """Distinct SMILES, of valid molecules. It falls with the number of molecules: compare equal numbers."""
    valid = [smiles for smiles in generated.smiles if smiles is not None]
    return float(ratio(len(set(valid)), len(valid)))


def novelty(generated: Statistics, known: set[str]) -> float:
    """Distinct SMILES that are not among those `known`, of distinct ones of valid molecules."""
    distinct = {smiles for smiles in generated.smiles if smiles is not None}
    return float(ratio(len(distinct - known), len(distinct)))


# --- against a reference ---------------------------------------------------------------------------------------------


def atom_tv(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """Total variation 1/2 sum |p - q| of the elements' frequencies p and q, from 0 to 1."""
    return midi_atom_tv(generated, reference, weights) / 2


def midi_atom_tv(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """sum |p - q| of the elements' frequencies, without the 1/2: from 0 to 2, as published."""
    return _l1(_weights(generated, weights) @ generated.elements, reference.elements.sum(0))


def bond_tv(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """Total variation 1/2 sum |p - q| of the frequencies of `BOND_TYPES` over all pairs of atoms of a molecule."""
    return midi_bond_tv(generated, reference, weights) / 2


def midi_bond_tv(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """sum |p - q| of the frequencies of `BOND_TYPES`, "none" among them, without the 1/2: from 0 to 2, as published."""
    return _l1(_weights(generated, weights) @ generated.bonds, reference.bonds.sum(0))


def valency_w1(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """Wasserstein-1 distance of the valences of an element's atoms, averaged over elements.

    With the elements' frequencies in the reference, over the elements that both have.
    """
    return _by_kind(generated, weights, generated.valences, reference.valences, _element_frequencies(reference))


def bond_length_w1(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """Wasserstein-1 distance of a bond type's lengths in angstrom, without bins, averaged over bond types.

    With the frequencies of the bond types among the bonds of the reference, over the types that both have.
    """
    frequencies = np.nan_to_num(_normalised(reference.bonds.sum(0))) * (np.arange(len(BOND_TYPES)) > 0)
    return _by_kind(generated, weights, generated.lengths, reference.lengths, frequencies)


def midi_bond_length_w1(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """As published: lengths rounded to 0.01 angstrom, bond types weighted by their share of all *pairs*.

    Pairs without a bond are left out of the sum but not of the weights, which so add up to the share of bonded pairs:
    about 0.05 for drug-like molecules, and the result is as much too small. A type that the generated molecules do not
    have is an empty histogram; the distance is NaN only where they have no bond at all.
    """
    weights = _weights(generated, weights)
    both = (generated.lengths, reference.lengths)
    bins = [np.rint(sample.value * LENGTH_BINS).astype(int) for sample in both]
    if not all(map(len, bins)):
        return np.full(weights.shape[:-1], np.nan)[()]
    low = min(of.min() for of in bins)
    n_bins = max(of.max() for of in bins) - low + 1
    of_generated, of_reference = ((sample, of - low, n_bins) for sample, of in zip(both, bins, strict=True))
    frequencies = _normalised(reference.bonds.sum(0))
    kinds = range(1, len(BOND_TYPES))
    distance = sum(frequencies[k] * _binned_w1(k, weights, of_generated, of_reference) for k in kinds) / LENGTH_BINS
    n_lengths = np.bincount(generated.lengths.molecule, minlength=len(generated))
    return np.where(weights @ n_lengths == 0, np.nan, distance)[()]


def bond_angle_w1(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """Wasserstein-1 distance of the bond angles at an element's atoms in degrees, without bins, averaged over elements.

    With the frequency in the reference of atoms of the element and of valence 2 or more, over the elements that have
    angles in both.
    """
    return _by_kind(generated, weights, generated.angles, reference.angles, _angle_frequencies(reference))


def midi_bond_angle_w1(generated: Statistics, reference: Statistics, weights: Weights | None = None) -> Value:
    """As published: angles in bins of 0.1 degrees, an element without angles at distance of an empty histogram.

    0, the best there is, where fewer than 70 % of the pairs of atoms have no bond between them, as in the smallest
    molecules.
    """
    weights = _weights(generated, weights)
    n_bins = 180 * ANGLE_BINS + 1
    of_generated, of_reference = (
        (sample, np.rint(sample.value * ANGLE_BINS).astype(int), n_bins)
        for sample in (generated.angles, reference.angles)
    )
    frequencies = _angle_frequencies(reference)
    kinds = np.flatnonzero(frequencies).tolist()
    if not kinds:
        return np.full(weights.shape[:-1], np.nan)[()]
    distance = sum(frequencies[k] * _binned_w1(k, weights, of_generated, of_reference) for k in kinds) / ANGLE_BINS
    bonds = weights @ generated.bonds
    sparsity = ratio(bonds[..., 0], bonds.sum(-1))
    distance = np.where(sparsity < SPARSE, 0.0, distance / (frequencies.sum() + 1e-5))
    return np.where(np.isnan(sparsity), np.nan, distance)[()]


# What `measure` reports: by name, those of the generated molecules alone, and distances to a reference.
SHARES: dict[str, Callable] = {f.__name__: f for f in (validity, connected, molecule_stability, atom_stability)}
DISTANCES: dict[str, Callable] = {
    f.__name__: f
    for f in (
        atom_tv,
        bond_tv,
        valency_w1,
        bond_length_w1,
        bond_angle_w1,
        midi_atom_tv,
        midi_bond_tv,
        midi_bond_length_w1,
        midi_bond_angle_w1,
    )
}


# --- distributions ---------------------------------------------------------------------------------------------------


def merged(a: Float[np.ndarray, " m"], b: Float[np.ndarray, " k"]):
    """Two samples in one order: the gaps between sorted values [m + k - 1], the places of a [m] and of b [k] there."""
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    places = np.empty(len(both), int)
    places[order] = np.arange(len(both))
    return np.diff(both[order]), places[: len(a)], places[len(a) :]


def distribution(places: Int[np.ndarray, " m"], weights: Float[np.ndarray, "... m"], size: int) -> Value:
    """Distribution function [..., size - 1] of a weighted sample in the gaps of `merged`, NaN without any weight."""
    spread = np.zeros((*weights.shape[:-1], size))
    spread[..., places] = weights
    cumulated = np.cumsum(spread, axis=-1)
    return ratio(cumulated, cumulated[..., -1:])[..., :-1]


def wasserstein(a, b, weights=None) -> Value:
    """Wasserstein-1 distance, the integral of |F - G|, of samples a [m] with weights [..., m] (default 1) and b [k]."""
    weights = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    if not len(a) or not len(b):
        return np.full(weights.shape[:-1], np.nan)[()]
    gaps, of_a, of_b = merged(a, b)
    size = len(a) + len(b)
    g = distribution(of_b, np.ones(len(b)), size)
    rows = weights.reshape(-1, len(a))  # one at a time, for the samples of a set are large
    distances = [np.abs(distribution(of_a, row, size) - g) @ gaps for row in rows]
    return np.reshape(distances, weights.shape[:-1])[()]


def ratio(a, b) -> Value:
    """a / b, and NaN without a warning where b is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(b) == 0, np.nan, np.true_divide(a, b))[()]


def _by_kind(generated: Statistics, weights, ours: Sample, theirs: Sample, frequencies) -> Value:
    """Mean over kinds of the distance between their values, by frequencies, over kinds that both have."""
    weights = _weights(generated, weights)
    total, shares = np.zeros(weights.shape[:-1]), np.zeros(weights.shape[:-1])
    for kind in np.flatnonzero(frequencies > 0).tolist():
        one, other = ours.of(kind), theirs.of(kind)
        distance = wasserstein(one.value, other.value, weights[..., one.molecule])
        total += np.where(np.isnan(distance), 0, frequencies[kind] * distance)
        shares += np.where(np.isnan(distance), 0, frequencies[kind])
    return ratio(total, shares)


def _binned_w1(kind: int, weights, generated, reference) -> Value:
    """Sum over bins of |F - G| of a kind's histograms, one that is empty staying 0."""
    from scipy.sparse import coo_array

    def histogram(weights, sample, bins, n_bins):
        own = sample.kind == kind
        places = sample.molecule[own], bins[own]
        return weights @ coo_array((np.ones(own.sum()), places), shape=(weights.shape[-1], n_bins)).tocsr()

    ours = histogram(weights, *generated)
    sample = reference[0]
    theirs = histogram(np.ones(sample.molecule.max(initial=-1) + 1), *reference)
    functions = [np.cumsum(np.nan_to_num(_normalised(of)), axis=-1) for of in (ours, theirs)]
    return np.abs(functions[0] - functions[1]).sum(-1)


def _element_frequencies(reference: Statistics) -> Float[np.ndarray, " elements"]:
    return np.nan_to_num(_normalised(reference.elements.sum(0)))


def _angle_frequencies(reference: Statistics) -> Float[np.ndarray, " elements"]:
    """Of each element: its frequency, times the share of its atoms that have a valence of 2 or more."""
    elements = reference.valences.kind
    angular = np.bincount(elements[reference.valences.value >= 2], minlength=N_ELEMENTS)
    shares = np.nan_to_num(ratio(angular, np.bincount(elements, minlength=N_ELEMENTS)))
    return _element_frequencies(reference) * shares


def _l1(ours: Int[np.ndarray, "... k"], theirs: Int[np.ndarray, " k"]) -> Value:
    return np.abs(_normalised(ours) - _normalised(theirs)).sum(-1)


def _normalised(counts: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "... k"]:
    return ratio(counts, np.sum(counts, axis=-1, keepdims=True))


def _mean(flags, weights: Weights | None) -> Value:
    weights = np.ones(len(flags)) if weights is None else weights
    return ratio(weights @ flags.astype(float), weights.sum(-1))


def _weights(generated: Statistics, weights: Weights | None) -> Weights:
    return np.ones(len(generated)) if weights is None else np.asarray(weights, float)
