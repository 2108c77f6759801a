"""Figures from rows of `metrics.jsonl`: loss components and percent of equivariance error against training step."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no screen is needed
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter

Rows = Sequence[Mapping[str, Any]]
# Told apart with any colour vision, after Okabe and Ito; beyond them styles of line go on.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = ("-", "--", ":")
FEW = 8  # arms whose names fit beside their lines
COMPONENTS = {"total": "total", "mean": "twirled prediction", "equiv": "equivariance error"}


def column(rows: Rows, name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def step_axis(ax, rows: Rows) -> None:
    """Log-spaced steps with room for step 0, the untrained model."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    ax.set_xlim(0, max(column(rows, "step").max(), 1) * 1.1)
    ax.set_xlabel("training step (0 is untrained)")
    ax.grid(alpha=0.25)


def percent_figure(arms: Mapping[str, Rows], title: str) -> Figure:
    """Percent of the validation loss that is equivariance error, with two standard errors; below, the floor."""
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    ax, floor = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
    for (line, colour), (name, rows) in zip(itertools.product(LINES, COLOURS), arms.items(), strict=False):
        step, percent, error = (column(rows, c) for c in ("step", "percent", "percent_stderr"))
        ax.plot(step, percent, line, marker="o", color=colour, label=name, markersize=4)
        low = np.maximum(percent - 2 * error, percent / 10)
        ax.fill_between(step, low, percent + 2 * error, color=colour, alpha=0.2, linewidth=0)
        floor.plot(step, column(rows, "floor"), ":", color=colour)
    everything = [row for rows in arms.values() for row in rows]
    for panel in (ax, floor):
        panel.set_yscale("log")
        step_axis(panel, everything)
    shown = column(everything, "percent")
    decades = np.log10(shown[shown > 0].max() / shown[shown > 0].min()) if (shown > 0).any() else 0
    if decades < 5:  # exactly equivariant models stand many decades below the others
        ax.yaxis.set_major_locator(FixedLocator([m * 10.0**e for e in range(-6, 3) for m in (1, 2, 5)]))
    else:
        ax.yaxis.set_major_locator(LogLocator(numticks=12))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("% of validation loss\nfrom equivariance error")
    ax.set_xlabel("")
    ax.set_title(textwrap.fill(title, 80), fontsize=10)
    _legend(figure, ax)
    floor.set_ylabel("floor, %")
    limits = column(everything, "floor")
    floor.set_ylim(limits.min() / 10, limits.max() * 10)
    return figure


def components_figure(arms: Mapping[str, Rows], title: str) -> Figure:
    """Total, twirled and equivariance loss against step, one panel an arm on common axes."""
    figure = Figure(figsize=(4.6 * len(arms), 4.2), layout="constrained")
    panels = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for ax, (name, rows) in zip(panels, arms.items(), strict=True):
        for colour, (component, label) in zip(COLOURS, COMPONENTS.items(), strict=False):
            value, error = column(rows, component), column(rows, f"{component}_stderr")
            ax.plot(column(rows, "step"), value, "o-", color=colour, label=label, markersize=3)
            low = np.maximum(value - 2 * error, value / 10)
            ax.fill_between(column(rows, "step"), low, value + 2 * error, color=colour, alpha=0.2, linewidth=0)
        ax.set_yscale("log")
        ax.set_title(name, fontsize=10)
        step_axis(ax, rows)
    panels[0].set_ylabel("validation loss (squared error per component)")
    panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


COSTS = {
    "step": "training step",
    "flop": "FLOP trained for",
    "train_seconds": "seconds of training",
}


def cost_figure(arms: Mapping[str, Rows], title: str) -> Figure:
    """Validation loss against steps, operations and seconds: which arm is ahead at equal cost."""
    shown = [cost for cost in COSTS if all(cost in row for rows in arms.values() for row in rows)]
    figure = Figure(figsize=(4.2 * len(shown), 4.2), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for ax, cost in zip(panels, shown, strict=True):
        cost_panel(ax, arms, cost)
    panels[0].set_ylabel("validation loss (squared error per component)")
    _legend(figure, panels[0])
    figure.suptitle(title, fontsize=10)
    return figure


def _legend(figure: Figure, ax) -> None:
    """Of the lines in `ax`, which share it with a few names; more of them go below the figure, which grows."""
    lines = ax.get_legend_handles_labels()
    if len(lines[1]) <= FEW:
        ax.legend(fontsize=8)
        return
    columns = max(1, int(figure.get_figwidth() / 4))
    figure.set_figheight(figure.get_figheight() + 0.18 * -(-len(lines[1]) // columns))
    figure.legend(*lines, loc="outside lower center", ncols=columns, fontsize=8)


def cost_panel(ax, arms: Mapping[str, Rows], cost: str) -> None:
    """Validation loss against one of `COSTS`, log-log, with two standard errors."""
    for (line, colour), (name, rows) in zip(itertools.product(LINES, COLOURS), arms.items(), strict=False):
        rows = [row for row in rows if row[cost] > 0]
        x, total, error = (column(rows, c) for c in (cost, "total", "total_stderr"))
        ax.plot(x, total, line, marker="o", color=colour, label=name, markersize=3)
        ax.fill_between(x, np.maximum(total - 2 * error, total / 10), total + 2 * error, color=colour, alpha=0.15)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(COSTS[cost])
    ax.grid(alpha=0.25)


def densities_figure(panels: Mapping[str, np.ndarray], title: str) -> Figure:
    """Grids `[channels, n, n, n]` side by side: the highest density of any channel along z."""
    figure = Figure(figsize=(2.2 * len(panels), 2.7), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, grid) in zip(axes, panels.items(), strict=True):
        ax.imshow(grid.max(axis=(0, 3)).T, origin="lower", cmap="magma", vmin=0, vmax=1)
        ax.set_title(name, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.suptitle(title, fontsize=10)
    return figure
