"""The runs of a study as jobs: which there are, which come first, what is left to do of each, and doing it."""

import importlib
import pathlib
import subprocess
import sys
from typing import NamedTuple

from ml_collections import ConfigDict

from equiscale.studies import sweep
from experiments.config import CONFIGS

FAILED = "failed.txt"  # in a run's folder: the last line of the command that failed


def config_of(task: str, preset: str) -> ConfigDict:
    """A task's own config."""
    return importlib.import_module(f"configs.{task}").get_config(preset)


def study_of(config: ConfigDict) -> sweep.Study:
    """The study of a file of configs/studies."""
    first = config_of(config.pretraining.task, config.pretraining.preset) if "pretraining" in config else None
    return sweep.Study.of(config, config_of(config.base.task, config.base.preset), first)


class Job(NamedTuple):
    """A run, its folder, and that of the run it starts from."""

    study: sweep.Study
    run: sweep.Run
    folder: pathlib.Path
    after: pathlib.Path | None = None

    @property
    def progress(self) -> sweep.Progress | None:
        return sweep.progress(self.folder)

    @property
    def name(self) -> str:
        return self.folder.name if self.folder.parent.name == "runs" else f"pretraining/{self.folder.name}"

    @property
    def state(self) -> str:
        """How far its training is."""
        p = self.progress
        return "not begun" if p is None else "finished" if p.done else f"step {p.step} of {p.steps}"

    @property
    def failure(self) -> str | None:
        """Why it ended early the last time that it was begun; None if it did not, runs again, or is finished since."""
        path = self.folder / FAILED
        return path.read_text() if path.exists() and commands_left(self) else None

    @property
    def config(self) -> ConfigDict:
        """What it is trained by."""
        config = config_of(self.run.task, self.study.preset)
        config.update_from_flattened_dict(dict(self.run.overrides))
        return config


def plan(study: sweep.Study, workdir: pathlib.Path, only: str = "*") -> list[Job]:
    """All runs whose names match, after those that they start from."""
    first, jobs = {}, []
    for r in study.runs(only):
        before = study.first(r)
        if before is None:
            jobs.append(Job(study, r, workdir / "runs" / r.name))
            continue
        folder = workdir / "pretraining" / before.name
        first[before.name] = Job(study.pretraining, before, folder)
        fields = {name: str(folder) if value == sweep.PRETRAINED else value for name, value in r.overrides.items()}
        jobs.append(Job(study, r._replace(overrides=fields), workdir / "runs" / r.name, folder))
    return [*first.values(), *jobs]


def stages(jobs: list[Job]) -> list[list[Job]]:
    """What is left of them: those that others start from, then the others."""
    todo = [job for job in jobs if commands_left(job)]
    return [[job for job in todo if job.after is None], [job for job in todo if job.after is not None]]


def commands_left(job: Job) -> list[list[str]]:
    """What is still to be run for one run of the study, in order: its training, then what is measured of it."""
    words = []
    if not _done(job.folder):
        fields = [f"--config.{name}={value}" for name, value in job.run.overrides.items()]
        words.append(["train", f"--config=configs/{job.run.task}.py", f"--config.preset={job.study.preset}", *fields])
    for m in job.study.measured(job.run):
        if not (job.folder / m.result).exists():
            words.append([m.command, *(f"--{name}={value}" for name, value in m.flags.items())])
    return [["python", "-m", f"experiments.{command}", f"--workdir={job.folder}", *rest] for command, *rest in words]


def execute(job: Job) -> str | None:
    """What is left of one run, each command a process; None, or the last line printed by the one that failed."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / FAILED).unlink(missing_ok=True)
    if why := _why_not(job):
        (job.folder / FAILED).write_text(why)
    return why


def _why_not(job: Job) -> str | None:
    if job.after is not None and not _done(job.after):
        return f"{job.after} is not finished, and it starts from there"
    for words in commands_left(job):
        with (job.folder / "log.txt").open("a") as log:
            command_line = [sys.executable, *words[1:]]
            done = subprocess.run(command_line, stdout=log, stderr=subprocess.STDOUT, cwd=CONFIGS.parent)
        if done.returncode:
            lines = (job.folder / "log.txt").read_text(errors="replace").strip().splitlines()
            return lines[-1][-300:] if lines else f"exit status {done.returncode}"
    return None


def _done(folder: pathlib.Path) -> bool:
    found = sweep.progress(folder)
    return found is not None and found.done
