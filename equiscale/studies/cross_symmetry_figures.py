"""Figure and table of `cross_symmetry`: percent by symmetry and checkpoint, with floors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from equiscale.studies.figures import COLOURS, column
from equiscale.studies.report import percent_text

LEAST = 1e-4  # percent: where the scale begins at the latest


def symmetries_figure(found: Mapping[str, Any]) -> Figure:
    """A line a symmetry, a point a checkpoint: percent with two standard errors, and the floor as a bar.

    Symmetries that the task has stand above those that it has not.
    """
    rows = found["rows"]
    names = [*_names(rows, of_task=True), *_names(rows, of_task=False)]
    steps = list(dict.fromkeys(row["step"] for row in rows))
    place = {name: -i - 0.7 * (not _of(rows, name)[0]["of_task"]) for i, name in enumerate(names)}
    figure = Figure(figsize=(9, 1.6 + 0.55 * len(names)), layout="constrained")
    ax = figure.subplots()
    for k, step in enumerate(steps):
        own = [row for row in rows if row["step"] == step]
        above = [row for row in own if not row["below_floor"]]
        beside = 0.3 - 0.6 * (k + 0.5) / len(steps)
        y = np.array([place[row["symmetry"]] + beside for row in above])
        percent, error = column(above, "percent"), 2 * column(above, "percent_stderr")
        look = {"color": COLOURS[k % len(COLOURS)], "markersize": 5, "linewidth": 1.2}
        below = np.minimum(error, 0.9 * percent)
        ax.errorbar(percent, y, xerr=(below, error), fmt="o", label=_step(step), **look)
        under = [row for row in own if row["below_floor"]]
        y = [place[row["symmetry"]] + beside for row in under]
        ax.plot([max(row["floor"], 1e-14) for row in under], y, "<", markerfacecolor="white", **look | {"linewidth": 0})
    for name in names:
        floors = column(_of(rows, name), "floor")
        ax.plot([floors[floors > 0].max(initial=1e-14)] * 2, place[name] + np.array([-0.35, 0.35]), "k:", linewidth=1.2)
    ax.plot([], [], "k:", label="floor: rounding alone")
    ax.set_xscale("log")
    ax.set_xlim(right=130)
    ax.xaxis.set_major_locator(LogLocator(numticks=20))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.axhline(np.mean([place[names[i]] for i in (_n_of_task(rows) - 1, _n_of_task(rows))]), color="0.6", linewidth=0.8)
    ax.set_yticks(list(place.values()), [_label(_of(rows, name)[0]) for name in names])
    ax.grid(alpha=0.25, axis="x")
    ax.set_xlabel("% of the loss over the orbit that is equivariance error (two standard errors)")
    ax.set_title(found["title"], fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(steps) + 1, fontsize=9)
    return figure


def symmetries_table(found: Mapping[str, Any]) -> str:
    """Plain text: symmetry by checkpoint, with the floor and how far the orbit's loss is above that of plain inputs."""
    header = ("step", "symmetry", "of the task", "% equivariance error", "floor, %", "loss / plain", "elements")
    lines = [header]
    for row in found["rows"]:
        lines.append(
            (
                str(row["step"]),
                row["symmetry"],
                "yes" if row["of_task"] else "no",
                percent_text(row),
                f"{row['floor']:.1e}",
                f"{row['total'] / row['plain']:.3g}",
                row["measure"],
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _names(rows: Sequence[Mapping[str, Any]], of_task: bool) -> list[str]:
    return list(dict.fromkeys(row["symmetry"] for row in rows if row["of_task"] == of_task))


def _n_of_task(rows: Sequence[Mapping[str, Any]]) -> int:
    return len(_names(rows, of_task=True))


def _of(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["symmetry"] == name]


def _label(row: Mapping[str, Any]) -> str:
    return row["symmetry"] + ("" if row["of_task"] else "\n(not of the task)")


def _step(step: int) -> str:
    return f"step {step}" if step else "untrained"
