"""Figure and table of `energy_drift`: energy along trajectories, and its drift over the share of equivariance error."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from equiscale.studies.figures import COLOURS


def drift_figure(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, tuple], title: str) -> Figure:
    """Energy since the start of each arm with two standard errors, and the size of its drift over its percent."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, (time, mean, error)) in zip(COLOURS, curves.items(), strict=False):
        left.plot(time / 1e3, mean, color=colour, label=name)
        left.fill_between(time / 1e3, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, linewidth=0)
    left.set_yscale("symlog", linthresh=1)
    left.set_xlabel("time, ps")
    left.set_ylabel("kinetic + predicted energy since the start, meV/atom")
    left.grid(alpha=0.25)
    left.legend(fontsize=8)
    shown = [row for row in rows if row["drift"] is not None]
    smallest = min((row["percent"] for row in shown if row["percent"] > 1e-3), default=1e-3) / 10
    for colour, row in zip(COLOURS, rows, strict=False):
        if row["drift"] is None:
            continue
        exact = row["percent"] <= 1e-3
        for suffix, marker in (("", "o"), ("_true", "s")):
            value = row.get(f"drift{suffix}")
            if value is not None:
                error = 2 * (row[f"drift{suffix}_stderr"] or 0)
                x = smallest if exact else row["percent"]
                right.errorbar(x, value, yerr=min(error, 0.9 * value), fmt=marker, color=colour)
        right.annotate(row["arm"] + (" (0 %)" if exact else ""), (smallest if exact else row["percent"], row["drift"]),
                       xytext=(5, 5), textcoords="offset points", fontsize=8)  # fmt: skip
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("% of the force loss that is equivariance error")
    right.set_ylabel("size of the drift, meV/atom/ps")
    right.plot([], [], "ko", label="of kinetic + predicted energy")
    if any(row.get("drift_true") is not None for row in rows):
        right.plot([], [], "ks", label="of kinetic + true energy")
    right.legend(fontsize=8, loc="lower right")
    right.grid(alpha=0.25)
    figure.suptitle(title, fontsize=10)
    return figure


def drift_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal, a line an arm."""

    def cell(row, name):
        value, error = row.get(name), row.get(f"{name}_stderr")
        return "-" if value is None else f"{value:.3g} ± {2 * error:.1g}" if error is not None else f"{value:.3g}"

    columns = {"percent": "% equiv", "force_mae": "force MAE", "drift": "drift", "heating": "heating"}
    if any("drift_true" in row for row in rows):
        columns |= {"drift_true": "true drift", "heating_true": "true heating"}
    lines = ["".join([f"{'':>16}", *(f"{title:>18}" for title in columns.values()), f"{'lost':>8}"])]
    lines += [
        "".join([f"{row['arm']:>16}", *(f"{cell(row, name):>18}" for name in columns), f"{row['lost']:>8}"])
        for row in rows
    ]
    return "\n".join(lines)
