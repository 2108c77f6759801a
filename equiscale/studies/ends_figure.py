"""Where the runs of a study end, against one of their fields: what more points, or more frames, are worth."""

import itertools
import textwrap
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from equiscale.studies.figures import COLOURS, LINES, Rows
from equiscale.studies.sweep import Study

PANELS = {"percent": "% of validation loss\nfrom equivariance error", "total": "validation loss"}


def lines_of(study: Study) -> dict[str, dict[str, float | None]]:
    """Arms that differ in the field `study.against` alone, as lines: name -> arm -> the field, None where it is unset.

    A line is called by the parts that the names of its arms share. Raises ValueError for a value that is no number.
    """
    for run in study.runs():
        value = run.overrides.get(study.against)
        if not isinstance(value, int | float | None):
            raise ValueError(f"{study.against}={value!r} is no number: nothing can be drawn against it")
    lines = study.alike([study.against])
    return {name: {study.arm(run): run.overrides.get(study.against) for run in runs} for name, runs in lines.items()}


def ends_figure(study: Study, arms: Mapping[str, Rows]) -> Figure:
    """Percent and loss at the last step (solid) and of the untrained (dotted) against the field; an arm that lacks it
    is a level.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    lines = {name: {arm: x for arm, x in of.items() if arm in arms} for name, of in lines_of(study).items()}
    ticks = sorted({x for of in lines.values() for x in of.values() if x is not None})
    for ax, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for (style, colour), (line, of) in zip(itertools.product(LINES[:2], COLOURS), lines.items(), strict=False):
            for row, dotted in ((-1, False), (0, True)):
                if dotted and name == "total":
                    continue
                y = {arm: arms[arm][row][name] for arm in of}
                error = {arm: 2 * arms[arm][row][f"{name}_stderr"] for arm in of}
                settings = {"color": colour, "alpha": 0.5 if dotted else 1.0, "label": None if dotted else line}
                settings["linestyle"] = ":" if dotted else style
                placed = sorted((x, arm) for arm, x in of.items() if x is not None)
                if placed:
                    x, order = zip(*placed, strict=True)
                    bars = [[min(error[arm], 0.9 * y[arm]) for arm in order], [error[arm] for arm in order]]
                    ax.errorbar(x, [y[arm] for arm in order], yerr=bars, marker="o", markersize=4, **settings)
                for arm in (arm for arm, x in of.items() if x is None):
                    ax.axhline(y[arm], **settings)
                    ax.axhspan(max(y[arm] - error[arm], y[arm] / 10), y[arm] + error[arm], color=colour, alpha=0.1)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(study.against)
        ax.set_ylabel(label)
        ax.grid(alpha=0.25)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", fontsize=8)
    note = f"{study.heading}; solid: trained, dotted: untrained, two standard errors"
    figure.suptitle(textwrap.fill(note, 100), fontsize=10)
    return figure
