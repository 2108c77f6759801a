"""Equivariance error of flows by flow time, along a study's runs, from the scores "times" and "gradients_by_time"."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from equiscale import propositions
from equiscale.propositions import Run
from equiscale.studies.averages import over_seeds
from equiscale.studies.figures import COLOURS, Rows, step_axis
from equiscale.studies.report import save_figure, table, write_csv

MOST_PANELS = 4
VALUES = ("total", "equiv", "percent", "percent_reducible")


def averaged(curves: Sequence[Rows]) -> list[dict[str, Any]]:
    """One curve of several seeds': by flow time, the means and standard errors of `VALUES` at the steps all have."""
    steps = sorted(set.intersection(*({row["step"] for row in rows} for rows in curves)))
    found = []
    for step in steps:
        rows = [next(row for row in curve if row["step"] == step) for curve in curves]
        merged: dict[str, Any] = {"step": step}
        for t in rows[0]["times"]:
            of_seeds, values = [row["times"][t] for row in rows], {}
            for name in VALUES:
                mean, error = over_seeds([v[name] for v in of_seeds], [v[f"{name}_stderr"] for v in of_seeds])
                values |= {name: mean, f"{name}_stderr": error}
            merged[t] = values
        found.append(merged)
    return found


def along_training(arms: Mapping[str, Rows], title: str) -> Figure:
    """Percent of the loss at each flow time against the step, a panel an arm; late times are bright."""
    shown = list(arms.items())[:MOST_PANELS]
    figure = Figure(figsize=(1.5 + 4.2 * len(shown), 4.4), layout="constrained")
    for ax, (name, rows) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        times = [t for t in rows[0] if t != "step"]
        for t, colour in zip(times, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(times))), strict=True):
            step = [row["step"] for row in rows]
            y, error = (np.array([row[t][f"percent{end}"] for row in rows]) for end in ("", "_stderr"))
            ax.plot(step, y, "o-", color=colour, markersize=3, label=f"t = {t}")
            ax.fill_between(
                step, np.maximum(y - 2 * error, y / 10), y + 2 * error, color=colour, alpha=0.12, linewidth=0
            )
        step_axis(ax, rows)
        ax.set_yscale("log")
        ax.set_title(name, fontsize=10)
    figure.axes[0].set_ylabel("% of validation loss\nfrom equivariance error")
    figure.axes[-1].legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def by_time(arms: Mapping[str, Rows], title: str) -> Figure:
    """At the last step, against the flow time: percent of the loss, and of what is not lost to rotation."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = {"percent": "% of validation loss", "percent_reducible": "% of the loss that rotation does not hide"}
    for ax, (value, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for (name, rows), colour in zip(arms.items(), COLOURS, strict=False):
            last = {float(t): of for t, of in rows[-1].items() if t != "step"}
            y, error = (np.array([of[f"{value}{end}"] for of in last.values()]) for end in ("", "_stderr"))
            bars = [np.minimum(2 * error, 0.9 * np.abs(y)), 2 * error]
            ax.errorbar(list(last), y, yerr=bars, fmt="o-", color=colour, markersize=4, label=name)
        ax.set_yscale("log")
        ax.set_xlabel("flow time (0 is noise, 1 is data)")
        ax.set_ylabel(label)
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def gradient_ratios(runs: Mapping[str, Rows], title: str) -> tuple[Figure, dict[str, dict[str, float]]]:
    """Gradient-norm against loss ratio of equiv and mean at each flow time, a panel a run; and their log-log
    correlations along the run, by run and time.
    """
    shown = list(runs.items())[:MOST_PANELS]
    figure = Figure(figsize=(1.5 + 4.6 * len(shown), 4.4), layout="constrained")
    found: dict[str, dict[str, float]] = {}
    for ax, (name, rows) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        times = list(rows[0]["gradients_by_time"])
        found[name] = {}
        for t, colour in zip(times, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(times))), strict=True):
            run = Run.of([row["gradients_by_time"][t] for row in rows])
            found[name][t] = r = propositions.log_log_correlation(run)
            label = f"t = {t}, R = {r:.2f}"
            ax.plot(run.ratio, run.purity, "o-", color=colour, markersize=3, linewidth=0.7, label=label)
            ax.plot(run.ratio[-1], run.purity[-1], "o", color=colour, markersize=7)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("loss ratio equiv / mean")
        ax.grid(alpha=0.25)
        ax.set_title(name, fontsize=10)
        ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.axes[0].set_ylabel("gradient-norm ratio equiv / mean")
    figure.suptitle(title + "\nlines: along training; large: at its end", fontsize=10)
    return figure, found


def gradient_section(workdir: pathlib.Path, runs: Mapping[str, Rows], title: str) -> tuple[str, str]:
    """A heading and body for a report of one run of each arm; figure and table are written beside it."""
    figure, correlations = gradient_ratios(runs, title)
    times = list(next(iter(correlations.values())))
    lines = [(name, *(f"{r[t]:.2f}" for t in times)) for name, r in correlations.items()]
    write_csv(workdir / "gradients_by_time.csv", [{"arm": name, **r} for name, r in correlations.items()])
    body = save_figure(figure, workdir / "gradients_by_time.png") + table(("log-log R at flow time", *times), lines)
    return "Gradients by flow time", body


def noise_section(workdir: pathlib.Path, runs: Mapping[str, Sequence[Rows]]) -> tuple[str, str]:
    """A heading and body: the variance of each target's gradients over that of the first, by arm and step, averaged
    over seeds; gradient_noise.csv is written beside it.
    """
    rows = []
    for name, curves in runs.items():
        for step in (row["step"] for row in curves[0]):
            of = [row["gradient_noise"] for curve in curves for row in curve if row["step"] == step]
            for target in of[0]:
                ratios = [found[target]["ratio"] for found in of]
                mean, error = over_seeds(ratios, [0.0] * len(ratios))
                rows.append({"arm": name, "step": step, "target": target, "ratio": mean, "ratio_stderr": error})
    write_csv(workdir / "gradient_noise.csv", rows)
    first = rows[0]["target"]
    lines = [
        (row["arm"], str(row["step"]), row["target"], f"{row['ratio']:.3g} ± {2 * row['ratio_stderr']:.1g}")
        for row in rows
        if row["target"] != first
    ]
    header = ("parameters of", "step", "target", f"variance of its gradient over that of {first}")
    return "Noise of gradients by target", table(header, lines)


def sections(workdir: pathlib.Path, runs: Mapping[str, Sequence[Rows]], title: str) -> list[tuple[str, str]]:
    """Headings and bodies for a report, of each arm's runs; figures and times.csv are written beside it."""
    arms = {name: averaged(curves) for name, curves in runs.items()}
    rows = [
        {"arm": name, "step": row["step"], "time": t, **values}
        for name, curve in arms.items()
        for row in curve
        for t, values in row.items()
        if t != "step"
    ]
    write_csv(workdir / "times.csv", rows)
    last = {name: curve[-1] for name, curve in arms.items()}
    times = [t for t in next(iter(last.values())) if t != "step"]
    lines = [
        (name, *(f"{row[t]['percent']:.3g} ± {2 * row[t]['percent_stderr']:.1g}" for t in times))
        for name, row in last.items()
    ]
    along = save_figure(along_training(arms, title), workdir / "times_along.png")
    ends = save_figure(by_time(arms, title), workdir / "times.png")
    header = ("% of the loss at flow time", *times)
    return [
        ("Percent by flow time along training", along),
        ("Percent by flow time at the end", ends + table(header, lines)),
    ]
