"""Two runs of one task, validation example by validation example, at every step that both have measured."""

import json
import pathlib
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from equiscale.studies.figures import COLOURS, Rows, column, step_axis
from equiscale.studies.paired import in_pairs, ratios, read_losses
from equiscale.training.run_folder import flat, read_metrics

# Fields of a config, or groups of them, that decide which examples are held out and what is asked of them.
OF_EXAMPLES = ("data", "grid", "noise_sigma", "properties", "input", "graph", "seed", "evaluation.molecules")


class Comparison(NamedTuple):
    """`rows`: step, `loss_a`, `loss_b`, `ratio` of b to a with its ends, `percent_a`, `percent_b`."""

    rows: list[dict[str, float]]
    differences: dict[str, tuple[Any, Any]]  # fields of both configs
    n_examples: int | None  # that were drawn together; None: errors of both were drawn independently

    @property
    def doubtful(self) -> list[str]:
        """Fields that differ and by which the validation examples may not be the same."""
        return [name for name in self.differences if any(f"{name}.".startswith(f"{of}.") for of in OF_EXAMPLES)]


def compare(a: pathlib.Path, b: pathlib.Path) -> Comparison:
    """Two run folders. Raises FileNotFoundError for a folder without a run, and ValueError for runs of different tasks
    and where there is no step that both have measured.
    """
    configs = [_config(folder) for folder in (a, b)]
    tasks = [config["task"] for config in configs]
    if tasks[0] != tasks[1]:
        raise ValueError(f"{a} is a run of {tasks[0]} and {b} one of {tasks[1]}: their losses have no unit in common")
    curves = [{row["step"]: row for row in read_metrics(folder)} for folder in (a, b)]
    steps = sorted(curves[0].keys() & curves[1].keys())
    if not steps:
        raise ValueError(f"{a} and {b} have no step in common at which both were measured")
    arms = [[curve[step] for step in steps] for curve in curves]
    losses = [read_losses([folder], steps) for folder in (a, b)]
    rows = []
    for of_a, of_b, ratio in zip(*arms, ratios(arms[::-1], losses[::-1]), strict=True):
        row = {"step": of_a["step"], "loss_a": of_a["total"], "loss_b": of_b["total"]}
        row |= {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
        rows.append(row | {"percent_a": of_a["percent"], "percent_b": of_b["percent"]})
    names = sorted(configs[0].keys() | configs[1].keys())
    both = {name: (configs[0].get(name), configs[1].get(name)) for name in names}
    differences = {name: values for name, values in both.items() if values[0] != values[1]}
    return Comparison(rows, differences, losses[0].shape[-1] if in_pairs(losses) else None)


def ratio_figure(rows: Rows, title: str) -> Figure:
    """The ratio of both losses against step, with its interval."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax = figure.subplots()
    step, ratio = column(rows, "step"), column(rows, "ratio")
    ax.plot(step, ratio, "o-", color=COLOURS[0], markersize=4)
    ax.fill_between(step, column(rows, "ratio_low"), column(rows, "ratio_high"), color=COLOURS[0], alpha=0.2)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    step_axis(ax, rows)
    ax.set_ylabel("loss of b over that of a")
    ax.set_title(title, fontsize=9)
    return figure


def _config(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name folders of runs, e.g. of experiments.train")
    return dict(flat(json.loads(path.read_text())))
