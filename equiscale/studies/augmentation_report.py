"""The report of a run in several arms that differ in augmentation: how fast each learned its rotations.

Reads run folders only: `<workdir>/<arm>/metrics.jsonl`, `<workdir>/config.json`, `<workdir>/sample.npz`,
`<workdir>/curvature.npz`.
"""

import html
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from equiscale.studies import curvature_study
from equiscale.studies.figures import Rows, components_figure, densities_figure, percent_figure
from equiscale.studies.instrument_figures import density_figure, gradients_figure
from equiscale.studies.report import percent_text, save_figure, table, write_report
from equiscale.training.run_folder import read_metrics

BELOW = 10.0  # percent: the level whose first crossing is reported


def first_below(rows: Rows, level: float) -> int | None:
    """The first evaluated step whose percent is below `level`."""
    return next((row["step"] for row in rows if row["percent"] < level), None)


def sentences(arms: Mapping[str, Rows]) -> list[str]:
    """What was found, in two sentences of numbers."""
    parts = []
    for name, rows in arms.items():
        crossing = first_below(rows, BELOW)
        when = f"first under {BELOW:g} % at step {crossing}" if crossing is not None else f"never under {BELOW:g} %"
        parts.append(
            f"{name}, it went from {percent_text(rows[0])} untrained to {percent_text(rows[-1])} at step "
            f"{rows[-1]['step']} ({when})"
        )
    last = {name: rows[-1] for name, rows in arms.items()}
    measure = next(iter(last.values()))["measure"]
    gains = ", and ".join(f"from {row['total']:.3g} to {row['mean']:.3g} {name}" for name, row in last.items())
    return [
        f"Share of the validation loss that comes only from imperfect rotation symmetry ({measure}): "
        + "; ".join(parts)
        + ".",
        f"The group average of each trained network, which is exactly equivariant, would bring the final loss {gains}: "
        "that difference is all that imperfect symmetry costs here.",
    ]


def write(workdir: pathlib.Path, arms: Mapping[str, str], *, facts: Mapping[str, str], command: str) -> pathlib.Path:
    """Figures and report.html in `workdir`; `arms` maps labels to subfolders, `facts` are lines on data and model.

    Raises ValueError for an arm without measurements.
    """
    rows = {label: read_metrics(workdir / folder) for label, folder in arms.items()}
    for label, found in rows.items():
        if not found:
            raise ValueError(f"{workdir / arms[label]} holds no metrics: train this arm before reporting on it")
    about = facts["task"]
    with np.load(workdir / "sample.npz") as sample:
        panels = {name: sample[name] for name in sample.files if name != "molecule"}
        molecule = str(sample["molecule"])
    first = next(iter(arms))
    images = {
        name: save_figure(figure, workdir / f"{name}.png")
        for name, figure in {
            "percent": percent_figure(rows, about),
            "components": components_figure(rows, about),
            "gradients": gradients_figure(rows, about),
            "curvature": density_figure(
                curvature_study.load_densities(workdir / "curvature.npz"),
                f"Hessians of the last layer, {first}, step {rows[first][-1]['step']}",
            ),
            "densities": densities_figure(panels, f"validation molecule {molecule}"),
        }.items()
    }
    header = ("arm", "step", "total loss", "twirled", "equivariance", "% from equivariance error", "floor")
    numbers = [
        (
            label,
            str(row["step"]),
            f"{row['total']:.4g} ± {2 * row['total_stderr']:.1g}",
            f"{row['mean']:.4g}",
            f"{row['equiv']:.4g}",
            percent_text(row),
            f"{row['floor']:.1e} %",
        )
        for label, found in rows.items()
        for row in (found[0], found[-1])
    ]
    config = json.dumps(json.loads((workdir / "config.json").read_text()), indent=2)
    notes = "".join(f"<li><b>{html.escape(k)}</b>: {html.escape(v)}</li>" for k, v in facts.items())
    path = workdir / "report.html"
    write_report(
        path,
        title="How fast does a plain network learn rotations?",
        found=sentences(rows),
        sections=[
            (
                "Percent of the loss from equivariance error",
                images["percent"] + "<p>Bands and ± are two standard errors over validation molecules. Dotted: "
                "the floor, what rounding alone would show for an exactly equivariant model.</p>",
            ),
            ("Loss components", images["components"] + "<p>total = twirled prediction + equivariance error.</p>"),
            (
                "Which loss drives training",
                images["gradients"]
                + f"<p>Purity: the gradient of the equivariance loss over that of the twirled loss, "
                f"on {facts['gradients']}. Dashed: the bounds of Propositions 2 and 3, their constants from this run."
                "</p>",
            ),
            (
                "Curvature",
                images["curvature"] + f"<p>Eigenvalues of the Hessians of both losses on {facts['curvature']}, by "
                "Lanczos.</p>",
            ),
            ("A molecule before and after", images["densities"] + "<p>Highest density of any channel along z.</p>"),
            ("First and last evaluation", table(header, numbers)),
            ("What was run", f"<ul>{notes}</ul><pre>{html.escape(command)}</pre>"),
            ("Configuration", f"<pre>{html.escape(config)}</pre>"),
        ],
    )
    return path
