"""How good samples of chains are, beside real ones: geometry, folds, and whether they lie in all orientations alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from equiscale.data import chain_geometry, tm_score
from equiscale.data.chain_crops import crops
from equiscale.data.chains import Chains
from equiscale.studies import sample_invariance
from equiscale.studies.figures import COLOURS

MOST = 64  # samples, and references, whose folds are compared: every pair costs some milliseconds
SHOWN = {
    "distance_mean": "nm between neighbours",
    "distance_sd": "its deviation",
    "clashes": "clashes a chain",
    "gyration_ratio": "radius of gyration over a protein's",
    "helix": "share in helices",
    "strand": "share in strands",
    "right_handed": "dihedrals of right-handed helices",
    "left_handed": "of left-handed ones",
}


def measure(samples: Chains, references: Chains, *, seed: int) -> dict[str, Any]:
    """`samples` and `references`, their statistics; `diversity` and `novelty` in TM-scores, by length; `invariance` by
    length, of lengths with enough samples.

    The samples of a length are compared with windows of that length of the references, if there are any.
    """
    record: dict[str, Any] = {
        "samples": chain_geometry.statistics(samples),
        "references": chain_geometry.statistics(references),
        "folds": {},
        "invariance": {},
    }
    for n in np.unique(samples.n_residues).tolist():
        of_length = samples.positions[samples.n_residues == n, :n]
        few = of_length[:MOST]
        folds = {"diversity": tm_score.diversity(few)} if len(few) > 1 else {}
        try:
            windows = crops(references, n).positions[:MOST]
        except ValueError:  # none is long enough
            windows = None
        if windows is not None:
            folds["nearest_reference"] = float(tm_score.nearest(few, windows)[0].mean())
            folds |= {"diversity_of_references": tm_score.diversity(windows)} if len(windows) > 1 else {}
        record["folds"][str(n)] = folds
        if len(of_length) >= 8:
            record["invariance"][str(n)] = sample_invariance.invariance(of_length, seed)
    return record


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What `measure` found, a line each."""
    lines = []
    for name, what in SHOWN.items():
        lines.append(f"{what}: {record['samples'][name]:.3g}, of references {record['references'][name]:.3g}")
    for n, folds in record["folds"].items():
        lines += [f"{n} residues, TM-score, {name.replace('_', ' ')}: {value:.2f}" for name, value in folds.items()]
    for n, features in record["invariance"].items():
        for name, row in features.items():
            lines.append(
                f"{n} residues, {name} against turned samples: energy distance {row['distance']:.3f}, "
                f"p = {row['p_value']:.2g} (as they are: {row['control']:.3f}, p = {row['control_p_value']:.2g})"
            )
    return lines


def figure(samples: Chains, references: Chains, title: str) -> Figure:
    """Distributions of bonds, bond angles and dihedrals of samples and references, and the first sample's trace."""
    found = Figure(figsize=(13, 3.6), layout="constrained")
    bonds, angles, dihedrals = found.subplots(1, 4)[:3]
    kinds = (
        (bonds, chain_geometry.neighbour_distances, "nm between neighbours", np.linspace(0.2, 0.6, 61)),
        (angles, chain_geometry.pseudo_angles, "angle of three residues, degrees", np.linspace(60, 180, 61)),
        (dihedrals, chain_geometry.pseudo_dihedrals, "dihedral of four residues, degrees", np.linspace(-180, 180, 73)),
    )
    for ax, of, label, bins in kinds:
        for chains, colour, name in ((samples, COLOURS[0], "samples"), (references, COLOURS[1], "references")):
            values = np.concatenate([of(chains[row], chain_geometry.joined(chains, row)) for row in range(len(chains))])
            values = values[np.isfinite(values)].clip(bins[0], bins[-1])
            weights = np.full(len(values), 1 / max(len(values), 1))
            ax.hist(values, bins, weights=weights, histtype="step", color=colour, label=name)
        ax.set_xlabel(label)
    bonds.set_ylabel("share")
    bonds.legend(fontsize=8)
    found.axes[3].remove()
    trace = found.add_subplot(1, 4, 4, projection="3d")
    trace.plot(*samples[0].T, color=COLOURS[0], linewidth=1.5)
    trace.set_title("the first sample, nm", fontsize=9)
    found.suptitle(title, fontsize=10)
    return found
