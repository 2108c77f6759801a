"""How well properties were predicted in the arms of a study: a figure, a table, and rows for a file.

All take, by arm, the records of `property_record` that the arm ended with, seeds averaged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equiscale.studies.figures import COLOURS
from equiscale.studies.report import table

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]  # arm -> property -> numbers
LEAST = -0.5  # R² shown: below, a prediction is worthless


def properties_figure(scores: Scores, title: str) -> Figure:
    """R² of each property by arm: of single predictions (filled), and of their average over the group (rings)."""
    names = list(next(iter(scores.values())))
    figure = Figure(figsize=(1.6 * len(names) + 2, 4.4), layout="constrained")
    ax = figure.subplots()
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(scores))]
    for i, ((arm, of), colour) in enumerate(zip(scores.items(), colours, strict=True)):
        marker = "os^vD"[i // len(COLOURS) % 5]
        at = [x + 0.8 * ((i + 0.5) / len(scores) - 0.5) for x in range(len(names))]
        for kind, filled in (("r2", True), ("r2_averaged", False)):
            values = [max(of[name][kind], LEAST) for name in names]
            errors = [2 * of[name][f"{kind}_stderr"] for name in names]
            face = colour if filled else "none"
            ax.errorbar(
                at, values, errors, fmt=marker, color=colour, mfc=face, markersize=5, elinewidth=0.8,
                label=arm if filled else None,
            )  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.8, linestyle=":")
    ax.set_ylim(LEAST - 0.05, 1.05)
    ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=15)
    ax.set_ylabel("R² on held-out molecules (± 2 standard errors)")
    handles, labels = ax.get_legend_handles_labels()
    ring = Line2D([], [], marker="o", linestyle="", color="grey", mfc="none")
    ax.legend([*handles, ring], [*labels, "rings: averaged over rotations"], fontsize=7)
    ax.set_title(title, fontsize=10)
    return figure


def properties_table(scores: Scores) -> str:
    """R² of single predictions and of averaged ones, an arm a row; below, what the columns mean."""
    names = list(next(iter(scores.values())))

    def cell(of: Mapping[str, Any]) -> str:
        return f"{of['r2']:.2f} ± {2 * of['r2_stderr']:.2f}, averaged {of['r2_averaged']:.2f}"

    lines = [(arm, *(cell(of[name]) for name in names)) for arm, of in scores.items()]
    return table(("R²", *names), lines) + (
        "<p>Over all rotations of each molecule: of single predictions, and of their average over the rotations. "
        "± are two standard errors over molecules and seeds. More is in properties.csv.</p>"
    )


def property_rows(scores: Scores) -> Sequence[Mapping[str, Any]]:
    """All numbers, one row for each arm and property."""
    return [{"arm": arm, "property": name, **of} for arm, named in scores.items() for name, of in named.items()]
