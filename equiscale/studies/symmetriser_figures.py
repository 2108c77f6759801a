"""Figure and table of `symmetrisers`: the loss against forward passes, and steepness against the step."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from equiscale.studies.figures import COLOURS, column
from equiscale.studies.report import percent_text
from equiscale.studies.symmetrisers import PLAIN


def symmetrisers_figure(found: Mapping[str, Any]) -> Figure:
    """Left, loss against forward passes with two standard errors of the difference to the plain model; right, the
    steepest step of each size (solid) and the median molecule's (dashed) against the step.
    """
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    cost, smooth = figure.subplots(1, 2)
    colours = dict(zip((row["method"] for row in found["rows"]), _colours(found), strict=True))
    _losses(cost, found["rows"], colours)
    _steepness(smooth, found["continuity"], colours)
    figure.suptitle(found["title"], fontsize=10)
    return figure


def _is_haar(name: str) -> bool:
    return name.startswith("Haar")


def _colours(found: Mapping[str, Any]) -> list[Any]:
    """The plain model black, averages in shades of one colour, the rest in colours of their own."""
    names = [row["method"] for row in found["rows"]]
    shades = iter(np.linspace(0.35, 1, sum(map(_is_haar, names))))
    others = iter(COLOURS[1:])
    return ["black" if n == PLAIN else (COLOURS[0], next(shades)) if _is_haar(n) else next(others) for n in names]


def _losses(ax, rows, colours) -> None:
    plain, *others = rows
    ax.axhline(plain["loss"], color="black", linestyle="--", linewidth=1.2, label=f"{PLAIN}, 1")
    ax.axhline(
        plain["turned"], color="black", linestyle=":", linewidth=1.2, label=f"{PLAIN}, examples turned at random"
    )
    haar, rest = ([row for row in others if _is_haar(row["method"]) == wanted] for wanted in (True, False))
    look = {"capsize": 3, "markersize": 6}

    def bars(rows):
        return column(rows, "passes"), column(rows, "loss"), 2 * column(rows, "difference_stderr")

    ax.errorbar(*bars(haar), fmt="o-", color=COLOURS[0], label="Haar average (randomised cosets)", **look)
    for marker, beside, row in zip("sDv", (1.0, 0.94, 1.06), rest, strict=False):  # those of one pass side by side
        name, (passes, *loss) = row["method"], bars([row])
        ax.errorbar(beside * passes, *loss, fmt=marker, color=colours[name], label=f"{name}, {row['passes']}", **look)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted({row["passes"] for row in rows})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("forward passes an example")
    ax.set_ylabel("validation loss (squared error per component)\nbars: two standard errors of the difference to plain")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)


def _steepness(ax, continuity, colours) -> None:
    steps = np.array(continuity["steps"])
    for name, colour in colours.items():
        ax.plot(steps, continuity["largest"][name], "o-", color=colour, markersize=3, label=name)
        ax.plot(steps, continuity["median"][name], "--", color=colour, linewidth=1)
    ax.plot(steps, continuity["floor"], ":", color="0.5", label="rounding")
    shown = [continuity["floor"][-1], *(min(ratios) for ratios in continuity["median"].values())]
    ax.set_ylim(max(min(shown), 1e-12) / 3, 2 * max(max(ratios) for ratios in continuity["largest"].values()))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.invert_xaxis()
    ax.set_xlabel(f"step of the points, {continuity['unit']} a coordinate")
    ax.set_ylabel("change of the output over the step\nsolid: steepest of all molecules, dashed: of the median one")
    ax.set_title("level: continuous; rising as 1/step: a jump", fontsize=9)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)


def symmetrisers_table(found: Mapping[str, Any]) -> str:
    """Plain text, one line a method."""
    header = ("method", "passes", "ms/example", "loss", "difference to plain", "loss when turned", "% left")
    lines = [(*header, f"steepest at {found['continuity']['steps'][-1]:.1e} {found['continuity']['unit']}", "jumps on")]
    for row in found["rows"]:
        difference = f"{row['difference']:+.2e} ± {row['difference_stderr']:.0e}"
        lines.append((
            row["method"], str(row["passes"]), f"{row['milliseconds']:.3g}",
            f"{row['loss']:.4g} ± {row['loss_stderr']:.1g}", "" if row["method"] == PLAIN else difference,
            f"{row['turned']:.4g} ± {row['turned_stderr']:.1g}", percent_text(row), f"{row['steepest']:.3g}",
            f"{100 * row['jumps']:.0f} % of paths",
        ))  # fmt: skip
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    table = "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return f"{table}\n± one standard error over molecules, of percentages two"
