"""Figure and table of `cross_symmetry`: percent by symmetry and checkpoint, with floors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

from equiscale.studies.figures import COLOURS, Rows, column
from equiscale.studies.report import percent_text

NEGLIGIBLE = 1e-3  # percent: what is below stands with the floors, on an axis of its own


def symmetries_figure(found: Mapping[str, Any]) -> Figure:
    """A line a symmetry, a point a checkpoint: percent with two standard errors; left of it the floors.

    Symmetries that the task has stand above those that it has not.
    """
    by_name = _by_name(found["rows"])
    names = sorted(by_name, key=lambda name: not by_name[name][0]["of_task"])
    steps = list(dict.fromkeys(row["step"] for row in found["rows"]))
    n_of_task = sum(by_name[name][0]["of_task"] for name in names)
    place = {name: -i - 0.5 * (i >= n_of_task) for i, name in enumerate(names)}
    figure = Figure(figsize=(9.5, 1.6 + 0.5 * len(names)), layout="constrained")
    floors, ax = figure.subplots(1, 2, sharey=True, width_ratios=(1, 3))
    for panel in (floors, ax):
        panel.set_xscale("log")
        panel.grid(alpha=0.25, axis="x", which="both")
        panel.set_axisbelow(True)
        panel.axhline(0.25 - n_of_task, color="0.6", linewidth=0.8)
    for k, step in enumerate(steps):
        rows = [row for row in found["rows"] if row["step"] == step]
        percent, error = column(rows, "percent"), 2 * column(rows, "percent_stderr")
        y = np.array([place[row["symmetry"]] for row in rows]) + 0.3 - 0.6 * (k + 0.5) / len(steps)
        look = {"fmt": "o", "color": COLOURS[k % len(COLOURS)], "markersize": 5, "linewidth": 1.2}
        for panel, shown in ((floors, percent < NEGLIGIBLE), (ax, percent >= NEGLIGIBLE)):
            p, e = percent[shown], error[shown]
            label = (f"step {step}" if step else "untrained") if panel is ax else None
            panel.errorbar(p, y[shown], xerr=(np.minimum(e, 0.9 * np.abs(p)), e), label=label, **look)
    for name in names:
        floor = column(by_name[name], "floor").max()
        floors.plot([floor, floor], place[name] + np.array([-0.35, 0.35]), "k:", linewidth=1.2)
    ax.plot([], [], "k:", label="floor: rounding alone")
    floors.set_xlim(column(found["rows"], "floor").min() / 30, NEGLIGIBLE)
    floors.xaxis.set_major_locator(LogLocator(numticks=4))
    floors.xaxis.set_minor_locator(FixedLocator([]))
    floors.set_xlabel("%, floors")
    ax.set_xlim(right=110)
    ax.xaxis.set_major_locator(FixedLocator([m * 10.0**e for e in range(-3, 3) for m in (1, 2, 5)]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("% of the loss over the orbit that is equivariance error (two standard errors)")
    labels = [name + ("" if by_name[name][0]["of_task"] else "\n(not of the task)") for name in names]
    ax.set_yticks(list(place.values()), labels)
    figure.suptitle(found["title"], fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(steps) + 1, fontsize=9)
    return figure


def symmetries_table(found: Mapping[str, Any]) -> str:
    """Plain text: symmetry by checkpoint, percentage and floor, and both losses over that of plain inputs."""
    header = ("step", "symmetry", "of the task", "% equivariance error", "floor, %", "total/plain", "equiv/plain")
    lines = [(*header, "elements")]
    for row in found["rows"]:
        numbers = [f"{row[name] / row['plain']:.3g}" for name in ("total", "equiv")]
        known = "yes" if row["of_task"] else "no"
        floor = f"{row['floor']:.1e}"
        lines.append((str(row["step"]), row["symmetry"], known, percent_text(row), floor, *numbers, row["measure"]))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _by_name(rows: Rows) -> dict[str, Rows]:
    """Rows of each symmetry, in the order in which they were measured."""
    return {
        name: [row for row in rows if row["symmetry"] == name] for name in dict.fromkeys(r["symmetry"] for r in rows)
    }
