"""The force head's theory along a study's runs, from the score "head" of their rows: Theorem 4 and purity."""

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from equiscale.studies.figures import COLOURS, Rows, step_axis
from equiscale.studies.report import save_figure

MOST_PANELS = 4


def head_figure(arms: Mapping[str, Rows], title: str) -> Figure:
    """Equivariance error over |w_perp|^2 between its bounds, against the step; and purity against the loss ratio."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, rows) in zip(COLOURS, list(arms.items())[:MOST_PANELS], strict=False):
        rows = [row for row in rows if row["head"]["effective"] is not None]
        if not rows:
            continue
        step = np.array([row["step"] for row in rows])
        left.plot(step, [row["head"]["effective"] for row in rows], "o-", color=colour, markersize=4, label=name)
        for bound in ("lowest", "highest"):
            noise = np.array([bound == "lowest" and row["head"]["lowest_is_noise"] for row in rows])
            values = np.where(noise, np.nan, [row["head"][bound] for row in rows])
            left.plot(step, values, "--", color=colour, linewidth=1)
        ratio = np.array([row["head"]["equiv"] / row["head"]["mean"] for row in rows])
        purity = np.array([row["head"]["purity"] for row in rows], float)
        known = (ratio > 0) & (purity > 0)
        shown = f"{name}: {correlation(ratio[known], purity[known])}" if known.sum() > 2 else name
        right.plot(ratio[known], purity[known], "o-", color=colour, markersize=4, linewidth=0.6, label=shown)
    step_axis(left, [row for rows in arms.values() for row in rows])
    left.set_yscale("log")
    left.set_ylabel("equivariance error / |w_perp|²\n(dashed: the bounds of Theorem 4)")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("equivariance error / mean loss")
    right.set_ylabel("|∇equiv| / |∇mean|, of the head")
    for panel in (left, right):
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def correlation(a: np.ndarray, b: np.ndarray) -> str:
    """Pearson's R of the logarithms, as text."""
    return f"log-log R = {np.corrcoef(np.log(a), np.log(b))[0, 1]:.2f}"


def section(workdir: pathlib.Path, arms: Mapping[str, Rows], title: str) -> tuple[str, str]:
    """Heading and body for a report; the figure as a PNG beside it."""
    broken = sum(not row["head"]["bounds_hold"] for rows in arms.values() for row in rows)
    n = sum(map(len, arms.values()))
    told = f"<p>Theorem 4's bounds hold in {n - broken} of {n} evaluations. Of each arm the first run is shown.</p>"
    return "The force head's theory along training", save_figure(head_figure(arms, title), workdir / "head.png") + told
