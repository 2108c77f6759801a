"""The scaling laws of a study in its report: last losses and percents against sizes, and the best of each budget."""

import html
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from equiscale.studies.figures import COLOURS, COSTS, LINES, Rows, column
from equiscale.studies.report import save_figure, table, write_csv
from equiscale.studies.scaling_laws import Fit, fit, frontier, optimum
from equiscale.studies.sweep import SIZES, Progress, Run, Study
from equiscale.training.run_folder import flat

HEADING = "Scaling law"
# What is fitted: whether it has an offset, and what it is called. A percent may fall to nothing, a loss need not.
FITTED = {"total": (True, "loss"), "percent": (False, "percent")}


class Line(NamedTuple):
    """Arms that differ in the fitted sizes alone: points `[n, k]`, the values of each one's seeds, and a law of them.

    `why` says why there is none.
    """

    name: str
    of: str  # a name of FITTED
    x: np.ndarray
    values: Sequence[Sequence[float]]
    fit: Fit | None
    why: str = ""


def sizes_of(folder: pathlib.Path) -> dict[str, Any]:
    """All that a run can be fitted against: the fields of its config, and its sizes where its folder has them."""
    path = folder / "sizes.json"
    return dict(flat(json.loads((folder / "config.json").read_text()))) | (
        json.loads(path.read_text()) if path.exists() else {}
    )


def lines_of(workdir: pathlib.Path, study: Study, found: Mapping[str, Progress]) -> list[Line]:
    """The laws of a study's finished runs, or why there is none. Raises ValueError for a size that is no number."""
    lines = []
    for name, runs in study.alike([SIZES.get(size, size) for size in study.fit]).items():
        arms: dict[str, list[Run]] = {}
        for run in runs:
            if run.name in found and found[run.name].done:
                arms.setdefault(study.arm(run), []).append(run)
        sizes = {run.name: sizes_of(workdir / "runs" / run.name) for of in arms.values() for run in of}
        lacking = [size for size in study.fit if any(size not in of for of in sizes.values())]
        if lacking or not sizes:
            why = f"their folders do not say how many {lacking[0]}" if lacking else "none of its runs is finished"
            lines += [Line(name, of, np.zeros((0, len(study.fit))), [], None, why) for of in FITTED]
            continue
        for run, of in sizes.items():
            for size in study.fit:
                if not isinstance(of[size], int | float):
                    raise ValueError(f"{run}: {size}={of[size]!r} is no number: no law can be fitted against it")
        # Seeds may hold out different molecules, and so train on a few more or less.
        x = np.array([np.mean([[sizes[r.name][s] for s in study.fit] for r in of], axis=0) for of in arms.values()])
        for value in FITTED:
            values = [[found[r.name].rows[-1][value] for r in of] for of in arms.values()]
            lines.append(_fitted(name, value, x, values))
    return lines


def _fitted(name: str, value: str, x: np.ndarray, values: Sequence[Sequence[float]]) -> Line:
    offset, _ = FITTED[value]
    try:
        return Line(name, value, x, values, fit(x, values, offset=offset))
    except ValueError as error:
        return Line(name, value, x, values, None, str(error))


def section(
    workdir: pathlib.Path, study: Study, found: Mapping[str, Progress], arms: Mapping[str, Rows]
) -> tuple[str, str]:
    """Heading and body for a report, figure and CSV beside it where there is a law; else why there is none."""
    lines = lines_of(workdir, study, found)
    reasons = dict.fromkeys(f"No law of the {FITTED[at.of][1]} ({at.name}): {at.why}." for at in lines if at.why)
    body = f"<p>{html.escape(' '.join(reasons))}</p>" if reasons else ""
    laws = [line for line in lines if line.fit]
    if not laws:
        return HEADING, body
    write_csv(workdir / "scaling_law.csv", [_row(line, study.fit) for line in laws])
    costs = cost_of_update(workdir, study, arms)
    figure = scaling_figure(lines, study.fit, arms, study.heading, costs)
    figure.savefig(workdir / "scaling_law.pdf")
    image = save_figure(figure, workdir / "scaling_law.png")
    sentences = [s for line in laws for s in _sentences(line, study.fit)]
    sentences += _of_reducible(lines, study.fit)
    sentences += _best(study.fit, laws, *costs) if costs else []
    numbers = table(
        ("law", "of", "arms", "offset", *(f"exponent of {size}" for size in study.fit)),
        [
            (line.name, FITTED[line.of][1], str(len(line.x)), *(_text(line, i) for i in (0, *_exponents(line))))
            for line in laws
        ],
    )
    note = "<p>Ranges are 95 % bootstrap intervals over seeds and over how arms differ from their law.</p>"
    return HEADING, f"{image}<p>{html.escape(' '.join(sentences))}</p>{numbers}{note}{body}"


def _exponents(line: Line) -> range:
    k = line.x.shape[1]
    return range(1 + k, 1 + 2 * k)


def _text(line: Line, number: int) -> str:
    if number == 0 and not line.fit.law.offset:
        return "none"
    (low, high), value = line.fit.interval()[:, number], line.fit.law.numbers[number]
    return f"{value:.3g} ({low:.2g} to {high:.2g})"


def _row(line: Line, names: Sequence[str]) -> dict[str, Any]:
    columns = ["offset", *(f"amplitude_{n}" for n in names), *(f"exponent_{n}" for n in names)]
    row = {"law": line.name, "of": line.of, "arms": len(line.x), "undetermined": line.fit.undetermined(names)}
    for name, value, (low, high) in zip(columns, line.fit.law.numbers, line.fit.interval().T, strict=True):
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _sentences(line: Line, names: Sequence[str]) -> list[str]:
    powers = " and ".join(
        f"as {name} to the power -{_text(line, i)}" for name, i in zip(names, _exponents(line), strict=True)
    )
    what = FITTED[line.of][1]
    towards = f" towards {_text(line, 0)}" if line.fit.law.offset else ""
    why = line.fit.undetermined(names)
    end = f"; {why}" if why else f", which the smallest {what} has reached" if line.fit.saturated else ""
    return [f"{line.name}: the {what} falls {powers}{towards}{end}."]


def _of_reducible(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    """Percents of what a law's offset leaves, in each line's arm of the lowest loss; the offset stands in for the loss
    that no model can remove.
    """
    found = []
    for total, percent in zip(lines[::2], lines[1::2], strict=True):  # in the order of FITTED
        if total.fit is None or total.fit.undetermined(names) or total.fit.saturated:
            continue
        best = int(np.argmin(total.fit.loss))
        loss, share = total.fit.loss[best], np.mean(percent.values[best])
        low, high = share * loss / (loss - total.fit.interval()[:, 0])
        found.append(
            f"{total.name}: where the loss is lowest ({loss:.3g}), equivariance error is {share:.3g} % of it, and "
            f"{share * loss / (loss - total.fit.law.offset):.3g} ({low:.2g} to {high:.2g}) % of what lies above the "
            "law's offset."
        )
    return found


def cost_of_update(workdir: pathlib.Path, study: Study, arms: Mapping[str, Rows]) -> tuple[float, float] | None:
    """FLOP of an update by parameter and example, the median over arms, and of the dearest arm's whole training; None
    where laws are not of parameters and examples, or arms have no FLOP.
    """
    if tuple(study.fit) != ("parameters", "examples"):
        return None
    costs, budgets = [], []
    for run in study.runs():
        curve = arms.get(study.arm(run))
        if not curve or "flop" not in curve[-1]:
            continue
        sizes = sizes_of(workdir / "runs" / run.name)
        budgets.append(curve[-1]["flop"])
        costs.append(curve[-1]["flop"] / (sizes["parameters"] * curve[-1]["step"] * sizes["training.batch_size"]))
    return (float(np.median(costs)), max(budgets)) if costs else None


def _determined(lines: Sequence[Line], names: Sequence[str]) -> list[Line]:
    return [line for line in lines if line.of == "total" and line.fit and not line.fit.undetermined(names)]


def _best(names: Sequence[str], laws: Sequence[Line], cost: float, budget: float) -> list[str]:
    """By laws that are determined, the sizes of the lowest loss at a budget, each example seen once."""
    found = []
    for line in _determined(laws, names):
        n, d = optimum(line.fit.law, budget, cost)
        away = n > 10 * line.x[:, 0].max() or n < line.x[:, 0].min() / 10
        beyond = ", far from any that was trained" if away else ""
        found.append(
            f"{line.name}: an update takes {cost:.3g} FLOP a parameter and example; were each example seen once, "
            f"{budget:.2g} FLOP would be best spent on {n:.2g} parameters and {d:.2g} examples{beyond}."
        )
    return found


def scaling_figure(
    lines: Sequence[Line],
    names: Sequence[str],
    arms: Mapping[str, Rows],
    title: str,
    costs: tuple[float, float] | None = None,
) -> Figure:
    """Seeds, laws and their bands against the last size, a line a value of the other; the lowest loss of each budget
    with its percent, and by `cost_of_update` what laws that are determined say that it could be.
    """
    figure = Figure(figsize=(13.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 3)
    colours = dict(zip(dict.fromkeys(line.name for line in lines), itertools.cycle(COLOURS), strict=False))
    for ax, (value, (_, what)) in zip(panels, FITTED.items(), strict=False):
        for line in (line for line in lines if line.of == value):
            _draw(ax, line, colours[line.name], names)
        ax.set_xlabel(f"number of {names[-1]}" if names[-1] in SIZES else names[-1])
        ax.set_ylabel("% of validation loss\nfrom equivariance error" if value == "percent" else f"validation {what}")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7)
    axes = [*panels, *_draw_frontier(panels[-1], arms)]
    if costs:
        cost, budget = costs
        for line in _determined(lines, names):
            grid = np.geomspace(cost * np.prod(line.x.min(0)), budget, 60)
            best = line.fit.law.loss(np.array([optimum(line.fit.law, at, cost) for at in grid]))
            panels[-1].plot(grid, best, ":", color=colours[line.name], label=f"by the law of {line.name}")
    if panels[-1].get_legend_handles_labels()[0]:
        panels[-1].legend(fontsize=7)
    for ax in axes:
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            # Matplotlib's own numbers between decades run into each other.
            subs = (1, 2, 3, 5) if high < 30 * low else (1, 3) if high < 1e3 * low else (1,)
            axis.set_major_locator(LogLocator(subs=subs))
            axis.set_minor_formatter(NullFormatter())
            if len(subs) > 1 or axis is ax.yaxis:
                axis.set_major_formatter("{x:g}")
    for ax in panels:
        ax.grid(alpha=0.25)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_frontier(ax, arms: Mapping[str, Rows]) -> list:
    """The lowest loss at each number of operations, and on an axis of its own, which is returned, its percent."""
    ax.set_xlabel(COSTS["flop"])
    ax.set_ylabel("validation loss")
    rows = [row for rows in arms.values() for row in rows if row.get("flop")]
    if not rows:
        return []
    flop, loss, percent = (column(rows, name) for name in ("flop", "total", "percent"))
    best = frontier(flop, loss)
    ax.plot(flop, loss, ".", color="grey", markersize=4, label="evaluations of all arms")
    ax.plot(flop[best], loss[best], "-", color=COLOURS[1], drawstyle="steps-post", label="the best so far")
    share = ax.twinx()
    share.plot(flop[best], percent[best], "x--", color=COLOURS[2], markersize=5, linewidth=0.8)
    ax.plot([], [], "x--", color=COLOURS[2], markersize=5, linewidth=0.8, label="its % from equivariance error")
    share.set_ylabel("% of the best loss\nfrom equivariance error", color=COLOURS[2])
    return [share]


def _draw(ax, line: Line, colour: str, names: Sequence[str]) -> None:
    others = np.unique(line.x[:, :-1], axis=0)
    for i, (other, style) in enumerate(zip(others, itertools.cycle(LINES), strict=False)):
        of = (line.x[:, :-1] == other).all(1)
        label = ", ".join([line.name, *(f"{v:.3g} {n}" for v, n in zip(other, names[:-1], strict=True))])
        for x, values in zip(line.x[of, -1], itertools.compress(line.values, of), strict=True):
            ax.plot(np.full(len(values), x), values, "osv^"[i % 4], color=colour, markersize=4)
        if line.fit is None:
            continue
        grid = np.geomspace(line.x[:, -1].min(), line.x[:, -1].max(), 60)
        points = np.column_stack([np.broadcast_to(other, (60, len(other))), grid])
        ax.plot(grid, line.fit.law.loss(points), style, color=colour, label=label)
        ax.fill_between(grid, *line.fit.band(points), color=colour, alpha=0.15, linewidth=0)
