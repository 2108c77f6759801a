"""Figures of generated molecules: their quality, and whether it depends on how their seeds lay."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from equiscale.studies.figures import COLOURS

SHARES = ("validity", "uniqueness", "novelty", "connected", "molecule_stability", "atom_stability")
DISTANCES = ("atom_tv", "bond_tv", "valency_w1", "bond_length_w1", "bond_angle_w1")


def quality_figure(record: Mapping[str, Any], title: str) -> Figure:
    """Shares with 95 % intervals; distances to the reference over what a perfect generator reads."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    shares, distances = figure.subplots(1, 2)
    names = [name for name in SHARES if name in record]
    _intervals(shares, [record[name] for name in names], names, scale=100)
    shares.set_xlim(-2, 102)
    shares.set_xlabel("% (95 % interval)")
    # A reference too small or uniform has no floor to compare with.
    names = [name for name in DISTANCES if name in record and record[name]["floor"] > 0 and record[name]["value"] > 0]
    if names:
        ratios = [record[name]["value"] / record[name]["floor"] for name in names]
        distances.barh(range(len(names)), ratios, color=COLOURS[0], height=0.5)
        distances.axvline(1, color="black", linewidth=1, linestyle="--")
        distances.set_xscale("log")
        distances.set_yticks(range(len(names)), names)
        distances.invert_yaxis()
        distances.set_xlabel("distance to held-out molecules,\nover that of as many of themselves (dashed)")
    else:
        distances.axis("off")
    figure.suptitle(title, fontsize=10)
    return figure


def consistency_figure(record: Mapping[str, Any], title: str) -> Figure:
    """Stability by rotation of the seed, and divergences of properties from the unturned seeds' with their floors."""
    rotations = record["rotations"]
    figure = Figure(figsize=(11, max(3.8, 0.22 * len(rotations) + 2)), layout="constrained")
    stability, divergence = figure.subplots(1, 2)
    for i, (share, colour) in enumerate((("atom_stability", COLOURS[0]), ("molecule_stability", COLOURS[1]))):
        found = [of[share] for of in rotations.values()]
        _intervals(stability, found, list(rotations), scale=100, colour=colour, label=share, shift=0.18 * i)
    stability.set_xlabel("% (95 % interval)")
    stability.set_ylabel("rotation of the seed")
    stability.legend(fontsize=8)
    turned = {name: of["properties"] for name, of in rotations.items() if "properties" in of}
    if turned:
        properties = list(next(iter(turned.values())))
        for i, name in enumerate(properties):
            values = [of[name]["kl_ab"]["value"] for of in turned.values()]
            beyond = [of[name]["kl_ab"]["p_value"] < 0.05 for of in turned.values()]
            colours = [COLOURS[1] if b else COLOURS[0] for b in beyond]
            divergence.scatter(values, [i] * len(values), c=colours, s=16, zorder=3)
            high = np.mean([of[name]["kl_ab"]["floor_high"] for of in turned.values()])
            divergence.plot([high, high], [i - 0.35, i + 0.35], color="black", linewidth=1.5)
        divergence.set_yticks(range(len(properties)), properties)
        divergence.invert_yaxis()
        divergence.set_xlabel("KL(turned | unturned), nats\nbar: 95 % of chance alone; orange: p < 0.05")
        if not any(of["n_valid"] for of in rotations.values()):
            divergence.text(0.5, 0.5, "no valid molecule", transform=divergence.transAxes, ha="center")
        divergence.grid(alpha=0.25)
    figure.suptitle(title, fontsize=10)
    return figure


def _intervals(ax, found, names, *, scale: float, colour=COLOURS[0], label=None, shift: float = 0.0) -> None:
    values, low, high = (scale * np.array([of[k] for of in found]) for k in ("value", "low", "high"))
    places = np.arange(len(names)) + shift
    ax.errorbar(values, places, xerr=[values - low, high - values], fmt="o", color=colour, label=label, markersize=4)
    ax.set_yticks(range(len(names)), names)
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    ax.grid(alpha=0.25)
