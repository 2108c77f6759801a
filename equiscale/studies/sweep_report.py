"""The report of a study: every run's curve, seeds averaged, and a table of where each arm ended."""

import html
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from equiscale.studies import (
    curvature_by_arm,
    efficiency_gap_report,
    flow_times_report,
    head_report,
    latents_by_arm,
    samples_by_arm,
    scaling_report,
    seed_rotation,
    time_to_equivariance,
)
from equiscale.studies.alternatives import read_alternatives
from equiscale.studies.augmentation_report import first_below
from equiscale.studies.averages import over_seeds
from equiscale.studies.ends_figure import ends_figure
from equiscale.studies.figures import Rows, components_figure, cost_figure, percent_figure
from equiscale.studies.paired import in_pairs, ratios, read_losses
from equiscale.studies.property_report import properties_figure, properties_table, property_rows
from equiscale.studies.report import percent_text, save_figure, table, write_csv, write_report
from equiscale.studies.sweep import Progress, Study
from equiscale.tasks.property_scores import STATISTICS
from equiscale.training.run_folder import flat

VALUES = ("total", "mean", "equiv", "percent")
# Where runs have them: how they are called in a row, in results.csv, and in the table.
MORE_VALUES = {
    "percent_reducible": "% of reducible loss",
    "alignment.equivariant": "latents' disagreement",
    "alignment.invariant": "that of their means",
    "errors.force_mae": "force MAE, eV/Å",
    "errors.energy_per_atom_mae": "energy MAE, eV/atom",
}
LEVELS = (10.0, 1.0, 0.1)  # percent, whose first crossings are reported
MOST_PANELS = 6


# Of what a study measures of finished runs, by command: (folders of each arm's runs, the file that each left) -> a
# heading and a body of HTML for each section.
SECTIONS = {
    "assess": seed_rotation.sections,
    "latents": latents_by_arm.sections,
    "spectrum": curvature_by_arm.sections,
    "generate_chains": samples_by_arm.sections,
}


def mean_curve(curves: Sequence[Rows]) -> list[dict[str, Any]]:
    """One curve of several seeds': means and standard errors at the steps that all have."""
    steps = sorted(set.intersection(*({row["step"] for row in rows} for rows in curves)))
    found = []
    for step in steps:
        rows = [next(row for row in curve if row["step"] == step) for curve in curves]
        flat_rows = [dict(flat(row)) for row in rows]
        merged: dict[str, Any] = {"step": step, "n_seeds": len(rows), "measure": rows[0]["measure"]}
        merged |= _averaged(flat_rows, [*VALUES, *(name for name in MORE_VALUES if all(name in r for r in flat_rows))])
        if all("properties" in row for row in rows):
            merged["properties"] = {
                name: {"unit": of["unit"]} | _averaged([row["properties"][name] for row in rows], STATISTICS)
                for name, of in rows[0]["properties"].items()
            }
        rates = [rate for curve in curves if (rate := _rates(curve))]
        if len(rates) == len(curves):
            flop, seconds = np.mean(rates, axis=0)
            merged |= {"flop": float(step * flop), "train_seconds": float(step * seconds)}
        merged["floor"] = float(np.mean([row["floor"] for row in rows]))
        merged["below_floor"] = all(row["below_floor"] for row in rows)
        found.append(merged)
    return found


def _averaged(rows: Rows, names: Iterable[str]) -> dict[str, float]:
    """The means of some values over seeds, each with its standard error."""
    found = {}
    for name in names:
        mean, error = over_seeds([row[name] for row in rows], [row[f"{name}_stderr"] for row in rows])
        found |= {name: mean, f"{name}_stderr": error}
    return found


def _rates(curve: Rows) -> tuple[float, float] | None:
    """FLOP and seconds a step: the medians over a run's rows, so that a start anew or a busy moment does not count."""
    known = [row for row in curve if row.get("steps_per_second") and row.get("flops_per_second")]
    if not known:
        return None
    flop = np.median([row["flops_per_second"] / row["steps_per_second"] for row in known])
    return float(flop), float(np.median([1 / row["steps_per_second"] for row in known]))


def by_arm(runs: Mapping[str, Progress], labels: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Curves of the arms, seeds averaged; `labels` maps a run to its arm."""
    return {arm: mean_curve(seeds) for arm, seeds in curves_of(runs, labels).items()}


def curves_of(runs: Mapping[str, Progress], labels: Mapping[str, str]) -> dict[str, list[Rows]]:
    """Curves of each arm's seeds."""
    return {arm: [runs[name].rows for name in names] for arm, names in _measured(runs, labels).items()}


def _measured(runs: Mapping[str, Progress], labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of the runs of each arm that have rows."""
    names: dict[str, list[str]] = {}
    for name, found in runs.items():
        if found.rows:
            names.setdefault(labels[name], []).append(name)
    return names


def write(
    workdir: pathlib.Path, study: Study, found: Mapping[str, Progress], failed: Mapping[str, str], command: str
) -> pathlib.Path:
    """Figures (PNG and PDF), tables (CSV) and report.html of the runs that have rows, by name; `failed` says why.

    Raises ValueError when no run has any.
    """
    runs = {run.name: run for run in study.runs()}
    labels = {name: study.arm(run) for name, run in runs.items()}
    arms = by_arm(found, labels)
    if not arms:
        raise ValueError(f"no run in {workdir} has measured anything yet: nothing to report")
    figures = {"percent": percent_figure(arms, study.heading)}
    if len(study.tasks) == 1:  # losses of several tasks have no common unit
        figures["cost"] = cost_figure(arms, study.heading)
        if len(arms) <= MOST_PANELS:
            figures["components"] = components_figure(arms, study.heading)
    if study.against:
        figures["ends"] = ends_figure(study, arms)
    folders = {arm: [workdir / "runs" / name for name in names] for arm, names in _measured(found, labels).items()}
    rows = [_last(arm, curve) for arm, curve in arms.items()]
    if len(study.tasks) == 1:
        rows = [row | _over_first(arms, row["arm"], folders) for row in rows]
    write_csv(workdir / "results.csv", rows)
    images = {}
    for name, figure in figures.items():
        images[name] = save_figure(figure, workdir / f"{name}.png")
        figure.savefig(workdir / f"{name}.pdf")
    unfinished = [f"{name}: step {p.step} of {p.steps}" for name, p in found.items() if not p.done]
    unfinished += [f"{name}: failed, {why}" for name, why in failed.items()]
    unfinished += [f"{name}: not begun" for name in runs if name not in found and name not in failed]
    headings = {
        "percent": "Percent of the loss from equivariance error",
        "cost": "Loss at equal steps, operations and time",
        "components": "Loss components",
        "ends": f"Where each arm ended against {study.against}",
    }
    sections = [(headings[name], image) for name, image in images.items()]
    units = "" if len(study.tasks) == 1 else "<p>Losses of different tasks are in units of their own.</p>"
    sections.append(("Where each arm ended", _table(rows, arms) + units))
    sections.append(time_to_equivariance.section(workdir, curves_of(found, labels)))
    answers = []
    if study.compare:
        section, answer = would_it_pay(workdir, study, arms, folders)
        sections.append(section)
        answers += [answer] if answer else []
    if study.fit:
        sections.append(scaling_report.section(workdir, study, found, arms))
    scores = {arm: curve[-1]["properties"] for arm, curve in arms.items() if "properties" in curve[-1]}
    if scores:
        image = save_figure(properties_figure(scores, study.heading), workdir / "properties.png")
        write_csv(workdir / "properties.csv", property_rows(scores))
        sections.append(("How well each property is predicted", image + properties_table(scores)))
    if of_head := _having("head", study, found):
        sections.append(head_report.section(workdir, {arm: of[0] for arm, of in of_head.items()}, study.heading))
    if of_times := _having("times", study, found):
        sections += flow_times_report.sections(workdir, of_times, study.heading)
    if of_gradients := _having("gradients_by_time", study, found):
        firsts = {arm: of[0] for arm, of in of_gradients.items()}
        sections.append(flow_times_report.gradient_section(workdir, firsts, study.heading))
    if of_noise := _having("gradient_noise", study, found):
        sections.append(flow_times_report.noise_section(workdir, of_noise))
    for measurement in study.measurements:
        done: dict[str, list[pathlib.Path]] = {}
        for name in found:
            if (workdir / "runs" / name / measurement.result).exists():
                done.setdefault(study.arm(runs[name]), []).append(workdir / "runs" / name)
        if done and measurement.command in SECTIONS:
            sections += SECTIONS[measurement.command](workdir, done, measurement.result)
    if unfinished:
        sections.append(("Runs that are not finished", f"<pre>{html.escape(chr(10).join(unfinished))}</pre>"))
    axes = {axis.name: {label: dict(fields) for label, fields in axis.values.items()} for axis in study.axes}
    what = {"task": study.task, "preset": study.preset, "overrides": dict(study.overrides), "axes": axes}
    sections.append(("What was run", f"<pre>{html.escape(command)}\n\n{html.escape(json.dumps(what, indent=2))}</pre>"))
    path = workdir / "report.html"
    write_report(path, title=study.heading, found=[*_sentences(study, arms), *answers], sections=sections)
    return path


def _having(score: str, study: Study, found: Mapping[str, Progress]) -> dict[str, list[Rows]]:
    """By arm, the curves of its runs whose rows all have a score."""
    curves: dict[str, list[Rows]] = {}
    for run in study.runs():
        if run.name in found and (rows := found[run.name].rows) and all(score in row for row in rows):
            curves.setdefault(study.arm(run), []).append(rows)
    return curves


def would_it_pay(
    workdir: pathlib.Path, study: Study, arms: Mapping[str, Rows], folders: Mapping[str, Sequence[pathlib.Path]]
) -> tuple[tuple[str, str], str]:
    """The section that compares two arms, or why it cannot, and its answer in a sentence."""
    try:
        if missing := [name for name in study.compare if name not in arms]:
            raise ValueError(f"{missing[0]} has not been measured yet")
        pair = [arms[name] for name in study.compare]
        losses = tuple(read_losses(folders[name], [row["step"] for row in arms[name]]) for name in study.compare)
        ways = read_alternatives(folders[study.compare[0]])
        return efficiency_gap_report.section(workdir, tuple(study.compare), *pair, study.heading, losses, ways)
    except ValueError as error:
        return (efficiency_gap_report.HEADING, f"<p>{html.escape(f'Not to be told: {error}.')}</p>"), ""


def _last(arm: str, curve: Rows) -> dict[str, Any]:
    last = curve[-1]
    row = {"arm": arm, "seeds": last["n_seeds"], "step": last["step"]}
    for name in (name for name in (*VALUES, *MORE_VALUES) if name in last):
        row |= {name: last[name], f"{name}_stderr": last[f"{name}_stderr"]}
    row |= {name: last[name] for name in ("flop", "train_seconds") if name in last}
    return row | {f"first_step_under_{level:g}_percent": first_below(curve, level) for level in LEVELS}


def _over_first(arms: Mapping[str, Rows], arm: str, folders: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, Any]:
    """The last loss of an arm over that of the first, with its interval; nothing for the first itself."""
    first = next(iter(arms))
    if arm == first:
        return {}
    names = (arm, first)
    losses = tuple(read_losses(folders[name], [arms[name][-1]["step"]]) for name in names)
    (found,) = ratios([arms[name][-1:] for name in names], losses)
    ends = {"over_first_low": found.low, "over_first_high": found.high}
    return {"over_first": found.value, **ends, "over_first_paired": in_pairs(losses)}


def _table(rows: Sequence[Mapping[str, Any]], arms: Mapping[str, Rows]) -> str:
    header = ("arm", "seeds", "step", "total loss", "twirled", "% from equivariance error", "untrained")
    more = {name: title for name, title in MORE_VALUES.items() if any(name in row for row in rows)}
    compared = any("over_first" in row for row in rows)
    header += (f"loss over that of {rows[0]['arm']}",) * compared + tuple(more.values())
    lines = []
    for row in rows:
        curve = arms[row["arm"]]
        lines.append(
            (
                row["arm"],
                str(row["seeds"]),
                str(row["step"]),
                f"{row['total']:.4g} ± {2 * row['total_stderr']:.1g}",
                f"{row['mean']:.4g}",
                percent_text(curve[-1]),
                percent_text(curve[0]),
                *((_ratio_text(row),) * compared),
                *(f"{row[name]:.3g} ± {2 * row[f'{name}_stderr']:.1g}" if name in row else "" for name in more),
            )
        )
    note = "± are two standard errors over validation examples and seeds"
    if compared:
        paired = all(row["over_first_paired"] for row in rows if "over_first" in row)
        how = "examples of both arms drawn together" if paired else "errors of arms drawn independently: too wide"
        note += f"; ranges of ratios are 95 % intervals, {how}"
    return f"{table(header, lines)}<p>{note}.</p>"


def _ratio_text(row: Mapping[str, Any]) -> str:
    if "over_first" not in row:
        return "1"
    return f"{row['over_first']:.3g} ({row['over_first_low']:.3g} to {row['over_first_high']:.3g})"


def _sentences(study: Study, arms: Mapping[str, Rows]) -> list[str]:
    ends = [f"{arm}: {percent_text(rows[-1])} at step {rows[-1]['step']}" for arm, rows in arms.items()]
    measure = next(iter(arms.values()))[-1]["measure"]
    return [
        f"{study.reproduces}. Share of the validation loss from imperfect rotation symmetry ({measure}): ",
        "; ".join(ends) + ".",
    ]
