"""The redundancy matrices of `redundancy_study` as annotated heat maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure


def matrices_figure(found: Mapping[str, Any], title: str) -> Figure:
    """Losses over their mean on the diagonal: decoders by orientation, features as they are and turned back.

    One row of panels an encoder, on a common colour scale.
    """
    turns, encoders = found["rotations"], found["encoders"]
    kinds = {"loss": ("as it is", "index"), "loss_turned_back": ("features turned back", "index_turned_back")}
    shown = {kind: what for kind, what in kinds.items() if all(row[kind] for row in encoders.values())}
    cells, tall = 0.55 + 0.55 * len(turns), len(turns) + 2
    size = (len(shown) * (cells + 2.2) + 1, len(encoders) * (0.42 * tall + 1.5) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(encoders), len(shown), squeeze=False)
    ratios = {
        (name, kind): {row: np.array(v) / _diagonal(record[kind], turns) for row, v in record[kind].items()}
        for name, record in encoders.items()
        for kind in shown
    }
    most = max(np.max(list(rows.values())) for rows in ratios.values())
    colours = LogNorm(1 / max(most, 1.05), max(most, 1.05))
    for line, (name, record) in zip(panels, encoders.items(), strict=True):
        for ax, (kind, (label, index)) in zip(line, shown.items(), strict=True):
            rows = ratios[name, kind]
            image = ax.imshow(list(rows.values()), norm=colours, cmap="PuOr_r", aspect="auto")
            for i, values in enumerate(rows.values()):
                for j, value in enumerate(values):
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
            ax.set_xticks(range(len(turns)), turns, fontsize=8, rotation=40, ha="right", rotation_mode="anchor")
            ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
            ax.axhline(len(turns) - 0.5, color="black", linewidth=1)
            ax.set_ylabel("decoder trained on")
            value = record[index]
            ax.set_title(
                f"{name}, {label}\nindex {value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f}), "
                f"diagonal {_diagonal(record[kind], turns):.2e}",
                fontsize=9,
            )
    for ax in panels[-1]:
        ax.set_xlabel("tried on molecules turned by")
    figure.colorbar(image, ax=panels, label="loss over the mean diagonal", shrink=0.7)
    figure.suptitle(title, fontsize=10)
    return figure


def _diagonal(losses: Mapping[str, list[float]], turns: list[str]) -> float:
    return float(np.mean([losses[name][i] for i, name in enumerate(turns)]))
