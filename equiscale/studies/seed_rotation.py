"""Does turning the seed change what a model generates, by arm of a study? Tables 1 and 2 of arXiv 2507.09753.

Reads the assessments (`experiments.assess`) of what each run generated from turned and unturned molecules.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from equiscale.studies.averages import over_seeds
from equiscale.studies.figures import COLOURS
from equiscale.studies.report import save_figure, table

SHARES = ("validity", "molecule_stability", "atom_stability")
SIGNIFICANT = 0.05


class Number(NamedTuple):
    """A mean over training seeds with its standard error; NaN where nothing was generated that has it."""

    value: float
    stderr: float


class Divergence(NamedTuple):
    """KL(turned | unturned) of a property, mean over the turns; what chance alone reads, its mean and 95 % quantile;
    and in how many of the comparisons it is beyond chance (p < 0.05).
    """

    kl: Number
    floor: float
    floor_high: float
    beyond: int
    compared: int


class Consistency(NamedTuple):
    """Of one arm: what unturned seeds give, by how much each turn changes that on average, properties' divergences."""

    n_runs: int
    n_molecules: int  # of unturned seeds, all runs together
    unturned: Mapping[str, Number]
    change: Mapping[str, Number]
    divergence: Mapping[str, Divergence]


def summarise(assessments: Sequence[Mapping[str, Any]]) -> Consistency:
    """Of the assessments of one arm's runs. Errors of a mean over turns are taken as one turn's, since all share the
    unturned set. Raises ValueError for an assessment without turned seeds.
    """
    runs = []
    for found in assessments:
        if "consistency" not in found:
            raise ValueError("an assessment has no seeds that were turned: generate with --seeds_from and --rotations")
        of = found["consistency"]
        turned = [r for name, r in of["rotations"].items() if name != of["unrotated"]]
        runs.append((of["rotations"][of["unrotated"]], turned))

    def share(name):
        return Number(*over_seeds(*_numbers([base[name] for base, _ in runs])))

    def change(name):
        means = [np.mean(_numbers([r["change"][name] for r in turned]), axis=1) for _, turned in runs]
        return Number(*over_seeds(*np.transpose(means)))

    def divergence(name):
        records = [[r["properties"][name]["kl_ab"] for r in turned] for _, turned in runs]
        kl = over_seeds(*np.transpose([_mean(*_numbers(of_run)) for of_run in records]))
        every = [record for of_run in records for record in of_run if record["value"] is not None]
        floors = [[record[level] for record in every if record[level] is not None] for level in ("floor", "floor_high")]
        beyond = sum(record["p_value"] is not None and record["p_value"] < SIGNIFICANT for record in every)
        floor, high = (float(np.mean(values)) if values else np.nan for values in floors)
        return Divergence(Number(*kl), floor, high, beyond, len(every))

    return Consistency(
        n_runs=len(runs),
        n_molecules=sum(base["n"] for base, _ in runs),
        unturned={name: share(name) for name in SHARES},
        change={name: change(name) for name in SHARES},
        divergence={name: divergence(name) for name in runs[0][1][0]["properties"]},
    )


def _numbers(records: Sequence[Mapping[str, float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors; NaN where a file says null."""
    return tuple(np.array([record[name] for record in records], float) for name in ("value", "standard_error"))


def _mean(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    known = np.isfinite(values)
    return (float(values[known].mean()), float(errors[known].mean())) if known.any() else (np.nan, np.nan)


def figure(arms: Mapping[str, Consistency], title: str) -> Figure:
    """Shares from unturned seeds and what turning changes; divergences by property over what chance alone reads."""
    figure = Figure(figsize=(12, max(3.6, 0.5 * len(arms) + 2.2)), layout="constrained")
    shares, change, divergence = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    rows = np.arange(len(arms))
    for ax, field in ((shares, "unturned"), (change, "change")):
        for i, (name, colour) in enumerate(zip(SHARES, COLOURS, strict=False)):
            found = [getattr(arm, field)[name] for arm in arms.values()]
            values, errors = np.array(found).T * 100
            ax.errorbar(
                values, rows + 0.2 * (i - 1), xerr=2 * errors, fmt="o", markersize=4, color=colour,
                label=name.replace("_", " "),
            )  # fmt: skip
        ax.set_ylim(len(arms) - 0.5, -0.5)
        ax.grid(alpha=0.25)
    shares.set_yticks(rows, list(arms))
    change.set_yticks(rows, [])
    shares.set_xlabel("% of molecules (atoms),\nunturned seeds")
    change.axvline(0, color="black", linewidth=0.8)
    change.set_xlabel("change when the seed is turned,\npercentage points")
    properties = list(next(iter(arms.values())).divergence)
    places = np.arange(len(properties))
    for i, ((name, arm), colour) in enumerate(zip(arms.items(), COLOURS * 3, strict=False)):
        found = [arm.divergence[p] for p in properties]
        at = places + 0.7 * ((i + 0.5) / len(arms) - 0.5)
        divergence.scatter([d.kl.value for d in found], at, color=colour, s=18, label=name, zorder=3)
        divergence.scatter([d.floor_high for d in found], at, color=colour, marker="|", s=40, alpha=0.6)
    divergence.set_yticks(places, [name.replace("_", " ") for name in properties])
    divergence.set_ylim(len(properties) - 0.5, -0.5)
    divergence.set_xlabel("KL(turned | unturned), nats;\nbars: 95 % of chance alone")
    divergence.grid(alpha=0.25)
    figure.legend(*shares.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
    figure.legend(*divergence.get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=8)
    figure.suptitle(title + "\nbars of shares: two standard errors", fontsize=10)
    return figure


def sections(workdir: pathlib.Path, arms: Mapping[str, Sequence[pathlib.Path]], result: str) -> list[tuple[str, str]]:
    """Heading and body for a study's report; seed_rotation.png is written into `workdir` too."""
    read = {arm: [json.loads((folder / result).read_text()) for folder in folders] for arm, folders in arms.items()}
    made = {arm: [one for one in assessments if one["quality"]["n"]] for arm, assessments in read.items()}
    empty = "".join(
        f"<p>{arm}: {len(of_arm) - len(made[arm])} of {len(of_arm)} runs generated no molecule and are left out.</p>"
        for arm, of_arm in read.items()
        if len(made[arm]) < len(of_arm)
    )
    found = {arm: summarise(assessments) for arm, assessments in made.items() if assessments}
    if not found:
        return [("Generation from turned seeds", empty)]
    image = save_figure(figure(found, "What is generated from turned seeds"), workdir / "seed_rotation.png")
    return [("Generation from turned seeds", image + _shares_table(found) + _divergence_table(found) + empty)]


def _shares_table(arms: Mapping[str, Consistency]) -> str:
    header = ("arm", "runs", "molecules", *(name.replace("_", " ") for name in SHARES))
    lines = []
    for name, arm in arms.items():
        cells = [f"{_percent(arm.unturned[share])}, turned {_percent(arm.change[share], '+')}" for share in SHARES]
        lines.append((name, str(arm.n_runs), str(arm.n_molecules), *cells))
    return (
        table(header, lines) + "<p>Of unturned seeds, and the change when they are turned; ± two standard errors.</p>"
    )


def _percent(number: Number, sign: str = "") -> str:
    if np.isnan(number.value):
        return "none"
    return f"{100 * number.value:{sign}.1f} ± {200 * number.stderr:.1f} %"


def _divergence_table(arms: Mapping[str, Consistency]) -> str:
    properties = list(next(iter(arms.values())).divergence)
    lines = []
    for name, arm in arms.items():
        cells = []
        for d in (arm.divergence[p] for p in properties):
            counts = f"{d.beyond} of {d.compared} beyond chance"
            cells.append(
                "no valid molecule" if not d.compared else f"{d.kl.value:.3g} (chance {d.floor:.3g}), {counts}"
            )
        lines.append((name, *cells))
    return table(("KL of", *(p.replace("_", " ") for p in properties)), lines) + (
        "<p>KL(turned | unturned) in nats, mean over turns and runs; chance: what a random split of the same molecules "
        "reads. Beyond chance: comparisons with p &lt; 0.05, of which one in twenty is so by chance.</p>"
    )
