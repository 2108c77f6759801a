"""The n-fold test drawn: what each network got right, by degree and number of spokes, and what its control leaves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from equiscale.studies.figures import COLOURS

SHOWN = {"best": "best epoch, as published", "final": "last epoch", "control": "last epoch, points turned"}


def n_fold_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """A panel for each network and degree; shaded where 50 % is all that an equivariant network can get."""
    networks, degrees = (list(dict.fromkeys(row[key] for row in rows)) for key in ("network", "degree"))
    figure = Figure(figsize=(3.4 * len(networks), 2.6 * len(degrees) + 0.8), layout="constrained")
    panels = figure.subplots(len(degrees), len(networks), squeeze=False, sharex=True, sharey=True)
    for line, degree in zip(panels, degrees, strict=True):
        for ax, network in zip(line, networks, strict=True):
            of = [row for row in rows if (row["network"], row["degree"]) == (network, degree)]
            place = np.arange(len(of))
            for i, ((name, label), colour) in enumerate(zip(SHOWN.items(), COLOURS, strict=False)):
                values, errors = ([100 * row[key] for row in of] for key in (name, f"{name}_stderr"))
                ax.bar(place + 0.26 * (i - 1), values, 0.24, yerr=2 * np.array(errors), color=colour, label=label)
            for i, row in enumerate(of):
                if not row["possible"]:
                    ax.axvspan(i - 0.5, i + 0.5, color="grey", alpha=0.15, linewidth=0)
            ax.axhline(50, color="black", linewidth=0.8)
            ax.set_xticks(place, [str(row["n"]) for row in of])
            ax.set_title(f"{network}, L = {degree}", fontsize=9)
    for ax in panels[-1]:
        ax.set_xlabel("spokes n")
    for ax in panels[:, 0]:
        ax.set_ylabel("% right")
        ax.set_ylim(0, 115)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle("n-fold test; shaded: 50 % is a theorem; bars: two standard errors over seeds", fontsize=10)
    return figure
