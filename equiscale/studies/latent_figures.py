"""Figures of a latent's symmetry from the numbers of `latent_study`: cosines as in Figure 9, and along training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from equiscale.studies.figures import COLOURS, column, step_axis

GREY = "#8b949e"
TESTS = {"equivariance": "latent turned as a grid", "invariance": "latent averaged over voxels"}
KINDS = {"raw": "cosine similarity", "centred": "cosine similarity, centred"}


def cosines_figure(found: Mapping[str, Any]) -> Figure:
    """Cosines by axis and angle at each arm's last checkpoint, beside those of different molecules and untrained.

    Boxes hold the middle half, whiskers 90 %.
    """
    last = {row["arm"]: row for row in found["rows"]}
    groups = {name: (colour, row) for colour, (name, row) in zip(COLOURS, last.items(), strict=False)}
    untrained = next((row for row in found["rows"] if row["step"] == 0), None)
    if untrained is not None:
        groups = {"untrained": (GREY, untrained)} | groups
    figure = Figure(figsize=(12.5, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for line, (test, about) in zip(panels, TESTS.items(), strict=True):
        for ax, (kind, label) in zip(line, KINDS.items(), strict=True):
            for k, (colour, row) in enumerate(groups.values()):
                summary = row[test][kind]
                names = [name for name in summary if name not in ("different", "all")] + ["different"]
                _boxes(ax, [summary[name] for name in names], (k + 0.5) / len(groups) - 0.5, len(groups), colour)
            ax.set_title(f"{test}: {about}", fontsize=10)
            ax.set_ylabel(label)
            ax.set_xticks(range(len(names)), [*names[:-1], "different\nmolecules"], fontsize=8)
            ax.axvline(len(names) - 1.5, color="black", linewidth=0.8)
            ax.grid(axis="y", alpha=0.25)
            ax.set_axisbelow(True)
        line[1].set_ylim(-1.05, 1.05)
    handles = [panels[0, 0].plot([], [], color=c, linewidth=6, alpha=0.6)[0] for c, _ in groups.values()]
    steps = [f"{name}, step {row['step']}" if row["step"] else name for name, (_, row) in groups.items()]
    figure.legend(handles, steps, loc="outside lower center", ncols=len(groups), fontsize=9)
    figure.suptitle(_title(found) + "\nsame molecule turned; boxes: middle half, whiskers: 5 to 95 %", fontsize=10)
    return figure


def _boxes(ax, summaries: Sequence[Mapping[str, float]], shift: float, n_groups: int, colour: str) -> None:
    """Boxes from quantiles, one a rotation, beside those of the other groups."""
    names = {"med": "median", "q1": "q25", "q3": "q75", "whislo": "q05", "whishi": "q95"}
    stats = [{name: summary[ours] for name, ours in names.items()} | {"fliers": []} for summary in summaries]
    line = {"color": colour, "linewidth": 1.2}
    ax.bxp(
        stats,
        positions=np.arange(len(stats)) + 0.8 * shift,
        widths=0.7 / n_groups,
        manage_ticks=False,
        patch_artist=True,
        showcaps=False,
        boxprops={"facecolor": colour, "alpha": 0.55, "linewidth": 0},
        whiskerprops=line,
        medianprops={"color": "black", "linewidth": 1.2},
    )


def training_figure(found: Mapping[str, Any]) -> Figure:
    """Against training step: median centred cosines, their separation from different molecules, the Lie derivative."""
    rows = found["rows"]
    arms = {name: [row for row in rows if row["arm"] == name] for name in dict.fromkeys(row["arm"] for row in rows)}
    figure = Figure(figsize=(10.5, 7.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for colour, (name, own) in zip(COLOURS, arms.items(), strict=False):
        step = column(own, "step")
        for ax, test in zip(panels[0], TESTS, strict=True):
            same, different = (
                np.array([[row[test]["centred"][which][q] for q in ("median", "q25", "q75")] for row in own]).T
                for which in ("all", "different")
            )
            ax.plot(step, same[0], "o-", color=colour, markersize=4, label=f"same molecule turned, {name}")
            ax.fill_between(step, same[1], same[2], color=colour, alpha=0.18, linewidth=0)
            ax.plot(step, different[0], "s:", color=colour, markersize=3, label=f"different molecules, {name}")
        for test, style, aside in zip(TESTS, ("o-", "s--"), (0.97, 1.03), strict=True):
            auc, error = (
                np.array([row[test]["centred"]["all"][which] for row in own]) for which in ("auc", "auc_stderr")
            )
            aside *= 1 + 0.12 * (colour != COLOURS[0])  # error bars beside each other
            look = {"fmt": style, "color": colour, "markersize": 4, "linewidth": 1}
            panels[1, 0].errorbar(step * aside, auc, 2 * error, label=f"{test}, {name}", **look)
        rate, error = (np.array([row["lie"][which] for row in own]) for which in ("rate", "rate_stderr"))
        panels[1, 1].errorbar(step, rate, 2 * error, fmt="o-", color=colour, markersize=4, label=name)
    for ax, (test, about) in zip(panels[0], TESTS.items(), strict=True):
        ax.set_title(f"{test}: {about}", fontsize=10)
        ax.set_ylabel("cosine similarity, centred")
    panels[1, 0].set_title("the same molecule turned is closer than a different one", fontsize=10)
    panels[1, 0].set_ylabel("probability (AUC, centred; 0.5: no effect)")
    panels[1, 0].axhline(0.5, color="black", linewidth=0.8)
    panels[1, 1].axhline(found["lie_of_input"]["rate"], color=GREY, linestyle=":", label="mean input density")
    panels[1, 1].set_title("Lie derivative of the averaged latent under rotations", fontsize=10)
    panels[1, 1].set_ylabel("change per radian over spread of molecules")
    panels[1, 1].set_yscale("log")
    for ax in panels.flat:
        step_axis(ax, rows)
        ax.set_xlim(0, 1.3 * max(column(rows, "step").max(), 1))
        ax.legend(fontsize=7)
    for ax in panels[0]:
        ax.set_xlabel("")
    figure.suptitle(_title(found) + "\nbands: middle half; bars: two standard errors", fontsize=10)
    return figure


def _title(found: Mapping[str, Any]) -> str:
    n, held_out = found["molecules"]["n"], found["molecules"]["n_validation"]
    shapes = found.get("shapes", [found["shape"]])  # several where runs of different sizes are compared
    sizes = " or ".join(f"{channels} channels on {side}³ voxels" for channels, side, *_ in shapes)
    return (
        f"{found['task']}: latent {found['latent']}, {sizes}\n"
        f"{n} molecules ({held_out} held out from training) of {found['molecules']['source']}"
    )
