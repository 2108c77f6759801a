"""Records of generated molecules: how good they are, and whether turning what they start from changes them."""

import collections
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from equiscale.data.molecules import Molecules, import_rdkit
from equiscale.linear_fits import host_generator
from equiscale.studies import generation_metrics as metrics
from equiscale.studies.molecule_statistics import Statistics, statistics
from equiscale.studies.property_divergence import N_RESAMPLED, group_counts, kl, summary

Z = 1.96  # of a 95 % interval
STABILITIES = ("molecule_stability", "atom_stability")


def measure(
    molecules: Molecules | Statistics,
    reference: Molecules | Statistics | None = None,
    *,
    key: PRNGKeyArray,
    known: Collection[str] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """Every metric of generated molecules, as plain numbers for a file.

    Each metric is a record of `value`, `standard_error` and 95 % interval `low`, `high` over molecules, the reference
    taken as it is:

    - `validity`, `connected`, `molecule_stability`, `atom_stability` (`generation_metrics.SHARES`): the standard error
      of a bootstrap; the interval is Wilson's, which is not empty at 0 and 1 either, with the number of molecules that
      the standard error stands for;
    - `uniqueness` of the valid and `novelty` of the distinct ones: the jackknife, since a bootstrap repeats molecules
      and would find them less unique. Known are the SMILES `known`, of the training set as published, or else those
      of the reference's molecules, of which stereochemistry is dropped; without either there is no novelty;
    - with a reference, each of `generation_metrics.DISTANCES`: the bootstrap, its basic interval, and a `floor` and
      `floor_high` (mean and 95 % quantile) of as many molecules drawn from the reference itself, which is what a
      perfect generator reads.

    `groups` name what each molecule was made from, where several come from one: they are then resampled together.
    Besides, `n`, `n_valid`, `n_distinct`, and `not_perceived` molecules by reason. Of no molecules, all is NaN.

    Raises ImportError without RDKit; ValueError unless there is one group per molecule.
    """
    generated, rng = _statistics(molecules), host_generator(key)
    names = _groups(generated, groups)
    (counts,) = group_counts([names], rng)
    record: dict[str, Any] = {
        "n": len(generated),
        "n_valid": int(generated.valid.sum()),
        "n_distinct": len({smiles for smiles in generated.smiles if smiles is not None}),
        "not_perceived": dict(generated.report.reasons),
    }
    for name, metric in metrics.SHARES.items():
        record[name] = _wilson(float(metric(generated)), _spread(metric(generated, counts)), len(set(names)))
    theirs = None if reference is None else _statistics(reference)
    if known is not None:
        known = _without_stereo(known)
    elif theirs is not None:
        known = {smiles for smiles in theirs.smiles if smiles is not None}
    record |= _distinct(generated, known, names)
    if theirs is None:
        return record
    drawn = np.zeros((N_RESAMPLED, len(theirs)))
    if len(theirs):
        drawn = rng.multinomial(len(generated), np.full(len(theirs), 1 / len(theirs)), N_RESAMPLED).astype(float)
    record["n_reference"] = len(theirs)
    for name, metric in metrics.DISTANCES.items():
        floor = metric(theirs, theirs, drawn)
        floor = floor[np.isfinite(floor)]
        record[name] = summary(float(metric(generated, theirs)), metric(generated, theirs, counts)) | {
            "floor": float(floor.mean()) if len(floor) else np.nan,
            "floor_high": float(np.quantile(floor, 0.95)) if len(floor) else np.nan,
        }
    return record


def consistency(
    molecules_by_rotation: Mapping[str, Molecules | Statistics],
    *,
    key: PRNGKeyArray,
    unrotated: str = "0°",
    groups: Mapping[str, Sequence[Hashable]] | None = None,
) -> dict[str, Any]:
    """Do molecules generated from rotated seeds differ from those of unrotated ones? After arXiv 2507.09753.

    There are given the stabilities for seeds turned by 0, 90, 180 and 270 degrees, and the KL divergences between
    histograms of properties of either; its bins, smoothing and direction are not known, so ours are said in
    `property_divergence.kl`.

    Of each rotation: `n`, `validity`, `molecule_stability`, `atom_stability`, and for all but the unrotated `change`,
    the difference of each from it with a bootstrap standard error and interval, and `properties`, the record of `kl`
    with a the rotated and b the unrotated. A difference counts where it is beyond its floor. A second set from the
    unrotated seeds, given under a name of its own, is compared like a rotation: it reads what chance alone makes.

    `groups` name for each rotation the seed of each molecule: the rotations of a seed are then resampled together,
    which a comparison of few seeds needs for its intervals to hold.

    Raises ImportError without RDKit; ValueError where `unrotated` is none of the names, or unless there is one group
    per molecule.
    """
    if unrotated not in molecules_by_rotation:
        raise ValueError(f"unrotated={unrotated!r} is none of {list(molecules_by_rotation)}: name the unrotated set")
    sets = {name: _statistics(molecules) for name, molecules in molecules_by_rotation.items()}
    rng, base = host_generator(key), sets[unrotated]
    rotations = {}
    for name, rotated in sets.items():
        pair = (rotated, base)
        labels = None if groups is None else tuple(_groups(sets[n], groups[n]) for n in (name, unrotated))
        if labels is None:
            counts = [group_counts([range(len(of_set))], rng)[0] for of_set in pair]
        else:
            counts = group_counts(labels, rng)
        n_independent = len(rotated) if labels is None else len(set(labels[0]))
        record: dict[str, Any] = {"n": len(rotated), "n_valid": int(rotated.valid.sum())}
        change = {}
        for share in ("validity", *STABILITIES):
            metric = metrics.SHARES[share]
            values = [float(metric(of_set)) for of_set in pair]
            drawn = [metric(of_set, weights) for of_set, weights in zip(pair, counts, strict=True)]
            record[share] = _wilson(values[0], _spread(drawn[0]), n_independent)
            change[share] = summary(values[0] - values[1], drawn[0] - drawn[1], least=-1.0, most=1.0)
        if name != unrotated:
            record["change"] = change
            record["properties"] = kl(rotated.properties, base.properties, rng, groups=labels)
        rotations[name] = record
    return {"unrotated": unrotated, "rotations": rotations}


def _statistics(molecules: Molecules | Statistics) -> Statistics:
    return molecules if isinstance(molecules, Statistics) else statistics(molecules)


def _without_stereo(known: Collection[str]) -> set[str]:
    """SMILES as `Statistics` spells them: those of generated molecules tell no stereoisomers apart."""
    chem = import_rdkit()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        parsed = [chem.MolFromSmiles(smiles) for smiles in known]
    return {chem.MolToSmiles(molecule, isomericSmiles=False) for molecule in parsed if molecule is not None}


def _groups(generated: Statistics, groups: Sequence[Hashable] | None) -> Sequence[Hashable]:
    if groups is None:
        return range(len(generated))
    if len(groups) != len(generated):
        raise ValueError(f"{len(groups)} groups for {len(generated)} molecules: name one each")
    return groups


def _distinct(generated: Statistics, known: set[str] | None, groups: Sequence[Hashable]) -> dict[str, dict]:
    """Records of uniqueness and, with SMILES that are known, novelty: standard errors by leaving out each group."""
    by_group, everywhere = collections.defaultdict(collections.Counter), collections.Counter()
    for group, smiles in zip(groups, generated.smiles, strict=True):
        if smiles is not None:
            by_group[group][smiles] += 1
            everywhere[smiles] += 1
    new = everywhere.keys() - (known or ())
    total = np.array([everywhere.total(), len(everywhere), len(new)])  # molecules, distinct, distinct and new
    without = []
    for counts in by_group.values():
        gone = {smiles for smiles, count in counts.items() if count == everywhere[smiles]}
        without.append(total - [counts.total(), len(gone), len(gone & new)])
    left = np.array(without).reshape(-1, 3).T
    n = left.shape[1]

    def record(value, values):
        values = values[np.isfinite(values)]
        error = np.sqrt((n - 1) * np.var(values)) if len(values) > 1 else np.nan
        return _wilson(value, float(error), n)

    records = {"uniqueness": record(metrics.uniqueness(generated), metrics.ratio(left[1], left[0]))}
    if known is not None:
        records["novelty"] = record(metrics.novelty(generated, known), metrics.ratio(left[2], left[1]))
    return records


def _wilson(value: float, error: float, n: int) -> dict[str, float]:
    """A share with its standard error, and Wilson's interval (J. Am. Stat. Assoc. 22, 209, 1927).

    Of the number of independent draws that have that error; of `n`, how many there were, where it is 0.
    """
    if not np.isfinite(value) or not np.isfinite(error):
        return {"value": value, "standard_error": np.nan, "low": np.nan, "high": np.nan}
    draws = value * (1 - value) / error**2 if error > 0 else n
    centre = (value + Z**2 / (2 * draws)) / (1 + Z**2 / draws)
    half = Z * np.sqrt(value * (1 - value) / draws + (Z / (2 * draws)) ** 2) / (1 + Z**2 / draws)
    low, high = min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half))
    return {"value": value, "standard_error": error, "low": float(low), "high": float(high)}


def _spread(resampled: Float[np.ndarray, " r"]) -> float:
    finite = resampled[np.isfinite(resampled)]
    return float(np.std(finite, ddof=1)) if len(finite) > 1 else np.nan
