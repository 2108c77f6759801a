"""Figures of the instruments: gradients along a run, curvature, loss planes, equivariant subspaces."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from equiscale import propositions
from equiscale.lanczos import Density
from equiscale.landscape import Plane
from equiscale.propositions import Run
from equiscale.spectrum import Spectrum
from equiscale.studies.figures import COLOURS, COMPONENTS, Rows, column, step_axis

OF_PART = dict(zip(COMPONENTS, COLOURS, strict=False))  # the colour of each component, as in the loss figures


def gradients_figure(arms: Mapping[str, Rows], title: str) -> Figure:
    """Purity of the gradient along training with the bounds of Propositions 2 and 3, and against the loss ratio."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    along, against = figure.subplots(1, 2)
    for colour, (name, rows) in zip(COLOURS, arms.items(), strict=False):
        run = Run.of([row["gradients"] for row in rows])
        found, steps = propositions.bounded(run), column(rows, "step")
        along.plot(steps, found.purity, "o-", color=colour, markersize=4, label=name)
        along.plot(steps, found.by_proposition_2, "--", color=colour, linewidth=1, label="  bound, Eq. 12")
        along.plot(steps, found.by_proposition_3, ":", color=colour, linewidth=1, label="  bound, Eq. 13")
        r = propositions.log_log_correlation(run)
        against.plot(
            run.ratio, run.purity, "o-", color=colour, markersize=4, linewidth=0.7, label=f"{name}, R = {r:.2f}"
        )
        start = (run.ratio[0], run.purity[0])
        against.annotate("untrained", start, fontsize=8, textcoords="offset points", xytext=(4, 4))
    step_axis(along, next(iter(arms.values())))
    along.set_yscale("log")
    along.set_ylabel("|∇ equiv| / |∇ mean|")
    against.set_xscale("log")
    against.set_yscale("log")
    against.set_xlabel("loss ratio equiv / mean")
    against.set_ylabel("gradient-norm ratio")
    against.grid(alpha=0.25)
    along.legend(fontsize=8)
    against.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def density_figure(parts: Mapping[str, Density], title: str) -> Figure:
    """How many Hessian eigenvalues exceed each size, for mean and equiv, by stochastic Lanczos quadrature."""
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    ax = figure.subplots()
    top = max(float(d.nodes.max()) for d in parts.values())
    sizes = np.geomspace(top * 1e-6, top * 1.2, 200)
    for part, found in parts.items():
        label = f"{COMPONENTS[part]}: largest {found.nodes.max():.3g}, effective rank {found.effective_rank:.3g}"
        ax.plot(sizes, found.n * found.share_above(sizes), color=OF_PART[part], label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("size of eigenvalue")
    ax.set_ylabel("eigenvalues above it")
    ax.set_ylim(bottom=0.5)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    ax.set_title(title, fontsize=10)
    return figure


def spectrum_figure(parts: Mapping[str, Spectrum], title: str) -> Figure:
    """Eigenvalues by rank, largest first, with the noise below which they are rounding."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    ax = figure.subplots()
    for part, spectrum in parts.items():
        values = spectrum.eigenvalues[::-1]
        label = f"{COMPONENTS[part]}: condition number above the noise {spectrum.condition_above_noise:.1e}"
        ax.plot(np.arange(1, len(values) + 1), np.where(values > 0, values, np.nan), color=OF_PART[part], label=label)
        ax.axhline(spectrum.noise, color=OF_PART[part], linestyle=":", linewidth=1)
    ax.set_yscale("log")
    ax.set_xscale("log")
    ax.set_xlabel("rank (dotted: below it an eigenvalue is rounding)")
    ax.set_ylabel("Hessian eigenvalue")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    ax.set_title(title, fontsize=10)
    return figure


def plane_figure(plane: Plane, title: str) -> Figure:
    """Mean and equivariance loss on the same grid, each above its minimum there."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    rise = {part: plane.losses[part] - plane.losses[part].min() for part in ("mean", "equiv")}
    for ax, (part, values) in zip(panels, rise.items(), strict=True):
        filled = ax.contourf(plane.a, plane.b, values.T, levels=20, cmap="viridis")
        ax.plot(0, 0, "w+", markersize=9)
        ax.set_title(f"{COMPONENTS[part]}: rises by {values.max():.2g}", fontsize=9)
        ax.set_xlabel("along the largest eigenvalue's direction")
        ax.ticklabel_format(style="sci", scilimits=(-2, 3))
        figure.colorbar(filled, ax=ax, format="%.1e", ticks=np.linspace(0, values.max(), 4))
    panels[0].set_ylabel("along the smallest positive one's")
    figure.suptitle(title, fontsize=10)
    return figure


def subspace_figure(
    outside: Mapping[str, Mapping[str, float]],
    knob: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]],
    title: str,
) -> Figure:
    """Share of each kernel outside the symmetric subspace, and the losses as that part is scaled by s.

    `outside[label][layer]` is a share of the squared norm; `knob[label]` holds (s, mean, equiv).
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    layers, scaled = figure.subplots(1, 2, width_ratios=(3, 2))
    names = list(next(iter(outside.values())))
    for colour, (label, shares) in zip(COLOURS, outside.items(), strict=False):
        layers.plot(
            [100 * shares[name] for name in names], "o-", color=colour, markersize=3, linewidth=0.8, label=label
        )
    layers.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    layers.set_ylabel("% of |kernel|² outside E")
    layers.set_ylim(0, 100)
    layers.grid(alpha=0.25)
    layers.legend(fontsize=8)
    for (label, (s, mean, equiv)), line in zip(knob.items(), ("-", "--", ":"), strict=False):
        scaled.plot(s, mean, line, color=OF_PART["mean"], label=f"{COMPONENTS['mean']}, {label}")
        scaled.plot(s, equiv, line, color=OF_PART["equiv"], label=f"{COMPONENTS['equiv']}, {label}")
    scaled.set_yscale("log")
    scaled.set_xlabel("s: kernels W_E + s W_⊥ (1 is the trained network)")
    scaled.set_ylabel("loss")
    scaled.grid(alpha=0.25)
    scaled.legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure
