"""The comparison of a plain and an equivariant arm in a report: a figure, a table, and a paragraph that answers."""

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from equiscale.studies.alternatives import Alternative
from equiscale.studies.crossings import NEVER, Interval
from equiscale.studies.efficiency_gap import EQUAL, UNITS, Gap, efficiency_gap, paragraph
from equiscale.studies.figures import COLOURS, Rows, cost_panel
from equiscale.studies.paired import ByExample
from equiscale.studies.report import save_figure, table, write_csv

HEADING = "Would it pay?"
ENDS = ("ratio", "ratio_low", "ratio_high")  # of an interval, in tables
NUMBERS = ("at", "plain", "equivariant", "ratio", "cost_of_a_step", "margin")  # of the table, in order
PAIRED = "by drawing validation examples, the same for both arms, and moving each by the spread of its seeds"
INDEPENDENT = (
    "from standard errors over validation examples and seeds; both arms are measured on the same examples and their "
    "errors are drawn independently, so ranges of ratios are too wide rather than too narrow"
)
NOTE = (
    "<p>Ranges are 95 % intervals {how}. Between evaluations losses are interpolated log-log, beyond them never. A "
    "loss before a run's end is of a schedule that was going on: a run that ended there would have a lower one.</p>"
)


def gap_figure(gap: Gap, plain: Rows, equivariant: Rows, title: str) -> Figure:
    """Loss of both arms against each cost with the matched points, and what an equivariant arm gains in percent.

    Dotted: the plain arm's last loss; the star is where the equivariant arm reaches it.
    """
    arms = dict(zip(gap.names, (plain, equivariant), strict=True))
    n = len(gap.matches)
    figure = Figure(figsize=(4.2 * (n + 1), 4.4), layout="constrained")
    panels = figure.subplots(1, n + 1, squeeze=False)[0]
    for ax, (cost, match) in zip(panels[:n], gap.matches.items(), strict=True):
        cost_panel(ax, arms, cost)
        ax.axhline(gap.loss, color=COLOURS[0], linestyle=":", linewidth=1)
        if match:
            ax.axvline(match.at, color="grey", linestyle="--", linewidth=1)
            for loss, colour in zip((match.plain, match.equivariant), COLOURS, strict=False):
                ax.plot(match.at, loss, "D", color=colour, markersize=8, markerfacecolor="white", zorder=3)
        a_step = equivariant[-1][cost] / equivariant[-1]["step"]
        if 0 < gap.reached.value < NEVER:
            ax.plot(gap.reached.value * a_step, gap.loss, "*", color=COLOURS[1], markersize=13, zorder=4)
        if ax is not panels[0]:
            ax.sharey(panels[0])
    panels[0].set_ylabel("validation loss (squared error per component)")
    panels[0].legend(fontsize=8)
    bars = _gains(gap)
    last = panels[-1]
    for y, (_, value, low, high) in enumerate(bars):
        colour = COLOURS[0] if y <= len(gap.alternatives) else COLOURS[1]
        last.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3)
    last.axvline(0, color="black", linewidth=0.8)
    last.set_yticks(range(len(bars)), [name for name, *_ in bars])
    last.set_ylim(len(bars) - 0.5, -0.5)
    last.set_xlabel(f"gain, % of the loss of\n{gap.names[0]}")
    last.grid(alpha=0.25)
    marks = f"diamonds: equal cost; star: where {gap.names[1]} reaches the last loss of {gap.names[0]}"
    figure.suptitle(f"{title}\n{marks}", fontsize=10)
    return figure


def _gains(gap: Gap) -> list[tuple[str, float, float, float]]:
    """In percent, what perfect symmetry alone would gain, what the plain arm gains when it is used in other ways, and
    what the equivariant arm gains at equal costs.
    """

    def gain(name: str, ratio: Interval) -> tuple[str, float, float, float]:
        return name, 100 * (1 - ratio.value), 100 * (1 - ratio.high), 100 * (1 - ratio.low)

    found = [("if it were symmetric", *(100 * np.array(gap.penalty) / gap.loss))]
    found += [gain(f"{way.name} ({way.passes} x)", way.ratio) for way in gap.alternatives]
    return found + [gain(EQUAL[cost], match.ratio) for cost, match in gap.matches.items() if match]


def section(
    workdir: pathlib.Path,
    names: tuple[str, str],
    plain: Rows,
    equivariant: Rows,
    title: str,
    losses: tuple[ByExample | None, ByExample | None] = (None, None),
    alternatives: Sequence[Alternative] = (),
) -> tuple[tuple[str, str], str]:
    """The section of a report as heading and body, and the sentence that answers; figure and CSV beside the report."""
    gap = efficiency_gap(names, plain, equivariant, losses, alternatives)
    figure = gap_figure(gap, plain, equivariant, title)
    image = save_figure(figure, workdir / "efficiency_gap.png")
    figure.savefig(workdir / "efficiency_gap.pdf")
    rows = [{"cost": cost, "at": "no common range"} | _numbers(gap, cost) for cost in gap.matches]
    write_csv(workdir / "efficiency_gap.csv", rows)
    if alternatives:
        ways = [{**way._asdict(), **dict(zip(ENDS, way.ratio, strict=True))} for way in alternatives]
        write_csv(workdir / "alternatives.csv", ways)
    sentences = paragraph(gap)
    header = ("at equal", "cost", *names, "ratio", "cost of a step", "may be times as much")
    lines = [(UNITS[row["cost"]], *(_text(row, name) for name in NUMBERS)) for row in rows]
    text = html.escape(" ".join(sentences))
    note = NOTE.format(how=PAIRED if gap.paired else INDEPENDENT)
    return (HEADING, f"{image}<p>{text}</p>{table(header, lines)}{note}"), sentences[0]


def _text(row: Mapping[str, Any], name: str) -> str:
    """A number of the table, with its interval where it has one."""
    if not isinstance(value := row.get(name, ""), float):
        return value
    ends = f" ({row[f'{name}_low']:.2g} to {row[f'{name}_high']:.2g})" if f"{name}_low" in row else ""
    return f"{value:.3g}{ends}"


def _numbers(gap: Gap, cost: str) -> dict[str, float]:
    match, even = gap.matches[cost], gap.break_even.get(cost)
    found = {}
    if match:
        found |= {"at": float(match.at), "plain": match.plain, "equivariant": match.equivariant}
        found |= dict(zip(ENDS, match.ratio, strict=True))
    if even:
        found |= {"cost_of_a_step": even.ratio, "margin": even.margin.value}
        found |= {"margin_low": even.margin.low, "margin_high": even.margin.high}
    return found
