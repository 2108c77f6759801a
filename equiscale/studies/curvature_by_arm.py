"""Of a study's arms: Hessian spectra and condition numbers of the loss components, from what each run measured."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from equiscale.spectrum import Spectrum
from equiscale.studies.curvature_study import PARTS, load_curvature
from equiscale.studies.figures import COLOURS, COMPONENTS
from equiscale.studies.instrument_figures import plane_figure
from equiscale.studies.report import save_figure, table, write_csv


def sections(workdir: pathlib.Path, arms: Mapping[str, Sequence[pathlib.Path]], result: str) -> list[tuple[str, str]]:
    """Headings and bodies for a study's report; curvature.png, plane.png and curvature.csv are written there too."""
    runs = {}
    for arm, folders in arms.items():
        for i, folder in enumerate(folders):
            path = folder / result
            runs[arm if len(folders) == 1 else f"{arm}, run {i + 1}"] = load_curvature(path.parent, path.stem)
    rows = []
    for name, found in runs.items():
        for part in PARTS:
            rows.append({"run": name, "loss": part, **found.spectra[part].record()})
    write_csv(workdir / "curvature.csv", rows)
    ratios = [np.divide(*(found.spectra[p].condition_above_noise for p in PARTS)) for found in runs.values()]
    first = next(iter(runs.values()))
    n = len(first.spectra["mean"].eigenvalues)
    said = (
        f"<p>{n:,} parameters ({', '.join(first.names)}), {first.n_molecules} training example(s), float64. Condition "
        "numbers divide by the smallest eigenvalue above rounding. That of the twirled loss over that of equivariance: "
        f"{', '.join(f'{ratio:.2g}' for ratio in ratios)}.</p>"
    )
    image = save_figure(
        spectra_figure({name: found.spectra for name, found in runs.items()}), workdir / "curvature.png"
    )
    plane = save_figure(
        plane_figure(first.plane, f"{next(iter(runs))}: both losses on one plane"), workdir / "plane.png"
    )
    return [("Hessian spectra", said + image + _table(rows)), ("Both losses on one plane", plane)]


def spectra_figure(runs: Mapping[str, Mapping[str, Spectrum]]) -> Figure:
    """Eigenvalues over the largest by rank, a panel a component; dotted: below it an eigenvalue is rounding."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for ax, part in zip(figure.subplots(1, len(PARTS), sharey=True), PARTS, strict=True):
        for (name, spectra), colour in zip(runs.items(), itertools.cycle(COLOURS), strict=False):
            spectrum = spectra[part]
            values = spectrum.eigenvalues[::-1] / spectrum.largest
            label = f"{name}: {spectrum.condition_above_noise:.1e}"
            ax.plot(np.arange(1, len(values) + 1), np.where(values > 0, values, np.nan), color=colour, label=label)
            ax.axhline(spectrum.noise / spectrum.largest, color=colour, linestyle=":", linewidth=1)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("rank")
        ax.set_title(f"{COMPONENTS[part]}, with condition numbers", fontsize=10)
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8)
    figure.axes[0].set_ylabel("Hessian eigenvalue over the largest")
    return figure


def _table(rows: Sequence[Mapping]) -> str:
    header = (
        "run",
        "loss",
        "largest",
        "condition number",
        "as the paper takes it",
        "rank",
        "effective rank",
        "negative",
    )
    lines = [
        (
            row["run"],
            COMPONENTS[row["loss"]],
            f"{row['largest']:.3g}",
            f"{row['condition_above_noise']:.2g}",
            f"{row['condition']:.2g}" + (" (divides by rounding)" if row["condition_is_noise"] else ""),
            str(row["rank"]),
            f"{row['effective_rank']:.3g}",
            str(row["n_negative"]),
        )
        for row in rows
    ]
    return table(header, lines)
