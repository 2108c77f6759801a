"""A study as data: a base config and axes; the runs are all combinations of the axes' values.

Some may start from what a run of another task has learned. That one is part of the study: it is trained first, on the
same molecules with the same seed, since it takes over all fields that its task shares with the run that starts from
it, and it is trained once for all runs that differ in other fields alone. So nothing outside a study's folder is needed
to repeat it, and nothing is held out from a run that its beginning has seen.
"""

import fnmatch
import itertools
import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from equiscale.training.run_folder import flat, read_metrics

Overrides = Mapping[str, Any]  # dotted fields of a config -> values
SEED = "seed"  # the axis that is averaged over, not compared
PRETRAINED = "{pretrained}"  # as a field's value, the folder of the run that is trained first
# What a law may be fitted against besides fields of numbers: sizes in a run's sizes.json -> the field that sets each.
SIZES = {"parameters": "model.preset", "examples": "data.fraction"}
SCALES = ("cpu", "gpu", "paper", "smoke")  # minutes on 2 cores, hours, published sizes and steps, seconds for tests


class Axis(NamedTuple):
    """What is varied: `values` maps the label of each choice to the fields it sets.

    A choice that sets `task` starts from the config of that task, at the study's preset.
    """

    name: str
    values: Mapping[str, Overrides]


class Run(NamedTuple):
    """One training: its label on each axis, its task, and the fields that differ from that task's config."""

    labels: Mapping[str, str]
    overrides: Overrides
    task: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return ",".join(f"{axis}={label}" for axis, label in self.labels.items()) or "run"


class Measurement(NamedTuple):
    """What is done with each finished training: a module of experiments/, its flags, and the file it leaves last."""

    command: str
    flags: Mapping[str, Any]
    result: str  # in the training's folder
    arms: Sequence[str] = ()  # whose runs it is done with; of all if none is named


class Study(NamedTuple):
    """A config of `configs/studies`: what is run, and what the report says it is."""

    title: str
    reproduces: str
    task: str  # of runs for which no axis chooses another
    preset: str  # of the tasks' configs
    overrides: Overrides  # of all runs
    axes: Sequence[Axis]
    measurements: Sequence[Measurement] = ()  # in this order
    pretraining: "Study | None" = None  # the runs that some start from
    against: str = ""  # a field of numbers that ends of runs are drawn against
    fit: Sequence[str] = ()  # of SIZES or fields of numbers: what a law of the last losses is fitted against
    compare: Sequence[str] = ()  # a plain and an equivariant arm: would the second pay?
    made: str = ""  # what the data is where it was made here and is not real; said on every figure

    @classmethod
    def of(cls, config: ConfigDict, default: ConfigDict, first: ConfigDict | None = None) -> "Study":
        """From a study's config, whose `base` is the task's config that all runs start from; `default` is the task's
        own of that preset, from which only what differs has to be said.

        Its `pretraining`, if any, holds the fields of another task's config that the base has no say in, among them
        task and preset, of which `first` is the task's own config.
        """
        base = dict(flat(config.base.to_dict()))
        usual = dict(flat(default.to_dict()))
        overrides = {name: value for name, value in base.items() if value != usual[name]}
        task, preset = config.base.task, config.base.preset
        study = cls(config.title, config.reproduces, task, preset, overrides, config.axes, config.measurements)
        study = study._replace(against=config.against, made="" if config.base.data.folder else config.made)
        study = study._replace(fit=tuple(config.fit), compare=tuple(config.compare))
        if "pretraining" not in config:
            return study
        known = dict(flat(first.to_dict()))
        fields = {name: value for name, value in base.items() if name in known}
        fields |= dict(flat(config.pretraining.to_dict()))
        shared = [axis for axis in config.axes if {f for fields in axis.values.values() for f in fields} <= set(known)]
        own = study._replace(
            task=config.pretraining.task,
            preset=config.pretraining.preset,
            overrides={name: value for name, value in fields.items() if value != known[name]},
            axes=shared,
            measurements=(),
            against="",
            fit=(),
            compare=(),
        )
        return study._replace(pretraining=own)

    @property
    def heading(self) -> str:
        """The title, with what the data is if it is not real."""
        return f"{self.title} ({self.made})" if self.made else self.title

    def runs(self, only: str = "*") -> list[Run]:
        """All combinations, the last axis fastest, whose names match `only`. Raises ValueError if none does."""
        found = []
        for choice in itertools.product(*(axis.values.items() for axis in self.axes)):
            labels = {axis.name: label for axis, (label, _) in zip(self.axes, choice, strict=True)}
            overrides = dict(self.overrides)
            for _, fields in choice:
                overrides |= fields
            task = overrides.pop("task", self.task)
            found.append(Run(labels, overrides, task))
        matching = [run for run in found if fnmatch.fnmatch(run.name, only)]
        if not matching:
            raise ValueError(f"no run matches {only!r}; there are " + "; ".join(run.name for run in found[:8]))
        return matching

    @property
    def tasks(self) -> list[str]:
        """Those of its runs."""
        return list(dict.fromkeys(run.task for run in self.runs()))

    def first(self, run: Run) -> Run | None:
        """The run that this one starts from, None if it starts anew."""
        if PRETRAINED not in run.overrides.values():
            return None
        return next(r for r in self.pretraining.runs() if r.labels.items() <= run.labels.items())

    def arm(self, run: Run) -> str:
        """What a run is compared as: its labels on the axes that differ between runs, but for the seed."""
        parts = []
        for axis in self.axes:
            label = run.labels[axis.name]
            if axis.name != SEED and len(axis.values) > 1:
                parts.append(label if label[:1].isalpha() else f"{axis.name} {label}")
        return ", ".join(parts) or "all runs"

    def measured(self, run: Run) -> list[Measurement]:
        """What is done with a run once it is trained."""
        return [m for m in self.measurements if not m.arms or self.arm(run) in m.arms]

    def alike(self, fields: Collection[str]) -> dict[str, list[Run]]:
        """Runs that differ in these fields and the seed alone, under the parts that the names of their arms share."""
        groups: dict[str, list[Run]] = {}
        for run in self.runs():
            rest = {name: field for name, field in run.overrides.items() if name not in (*fields, SEED)}
            groups.setdefault(json.dumps([run.task, rest], sort_keys=True, default=str), []).append(run)
        return {_shared([self.arm(run) for run in runs]) or "all arms": runs for runs in groups.values()}

    def check(self, config_of: Callable[[str, str], ConfigDict]) -> None:
        """Raises ValueError naming an override that is no field of its task's config, `config_of(task, preset)`, a run
        that has no other to start from, or a label that names no folder.
        """
        for axis in self.axes:
            if bad := [label for label in axis.values if "/" in label]:
                raise ValueError(f"axis {axis.name} has the label {bad[0]!r}: labels name folders, leave out the slash")
        if self.against and not any(self.against in run.overrides for run in self.runs()):
            raise ValueError(f"against={self.against!r} is a field that no run of the study sets")
        for name in self.fit:
            if not any(SIZES.get(name, name) in run.overrides for run in self.runs()):
                raise ValueError(f"fit={name!r} is neither {' nor '.join(SIZES)} nor a field that a run sets")
        self._check_arms()
        known = {task: dict(flat(config_of(task, self.preset).to_dict())) for task in self.tasks}
        for run in self.runs():
            for field in run.overrides:
                if field not in known[run.task]:
                    listed = ", ".join(known[run.task])
                    raise ValueError(f"{field} is no field of configs/{run.task}.py; there are {listed}")
            if PRETRAINED in run.overrides.values() and self.pretraining is None:
                raise ValueError(f"{run.name} starts from {PRETRAINED}, and the study's config has no pretraining")
        if self.pretraining is not None:
            self.pretraining.check(config_of)

    def _check_arms(self) -> None:
        tasks = {self.arm(run): run.task for run in self.runs()}
        for measurement in self.measurements:
            if bad := set(measurement.arms) - tasks.keys():
                raise ValueError(f"{measurement.command} of {sorted(bad)}: the arms are {list(tasks)}")
        if not self.compare:
            return
        if len(self.compare) != 2 or not set(self.compare) <= tasks.keys():
            raise ValueError(f"compare={self.compare} must be two arms, plain and equivariant, of {list(tasks)}")
        if len({tasks[arm] for arm in self.compare}) > 1:
            raise ValueError(f"compare={self.compare}: these arms' losses are of different tasks")


def _shared(names: list[str]) -> str:
    first, *others = (name.split(", ") for name in names)
    return ", ".join(part for part in first if all(part in other for other in others))


def new_config(scale: str, title: str, reproduces: str, base: ConfigDict) -> ConfigDict:
    """A study's config but for its axes. Raises ValueError for a scale that is none of `SCALES`."""
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is none of {', '.join(SCALES)}")
    config = ConfigDict({"scale": scale, "title": title, "reproduces": reproduces})
    config.base = base
    config.against = ""  # a field that the ends of runs are drawn against
    config.fit = ()  # names of `SIZES` or fields of numbers that a law is fitted against
    config.compare = ()  # the arms, plain and equivariant, of which the report says whether the second pays
    config.made = ""  # what data is that is not real, as long as `base.data.folder` names none
    config.measurements = ()  # none besides what a training logs
    config.base.evaluation.instruments = ()  # a study compares losses; the instruments would take most of its time
    return config


def pretraining_of(config: ConfigDict) -> ConfigDict:
    """Of a task's config the fields that a pretraining has for itself: the rest it takes over from the runs."""
    names = ("task", "preset", "training", "evaluation")
    return ConfigDict({name: config[name] for name in names})


def one_field(field: str, *values: Any, name: str | None = None) -> Axis:
    """An axis of a single field, named by its last part, labelled by its values."""
    return Axis(name or field.split(".")[-1], {str(value): {field: value} for value in values})


class Progress(NamedTuple):
    """How far a run is."""

    step: int
    steps: int
    rows: list[dict[str, Any]]

    @property
    def done(self) -> bool:
        return self.step >= self.steps


def progress(folder: pathlib.Path) -> Progress | None:
    """Of the run in a folder; None where none was begun."""
    path = folder / "config.json"
    if not path.exists():
        return None
    steps = json.loads(path.read_text())["training"]["steps"]
    rows = read_metrics(folder)
    return Progress(rows[-1]["step"] if rows else 0, steps, rows)
