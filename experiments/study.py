"""Run a study: train every combination of its axes, measure along the way, draw and report.

    python -m experiments.study --list
    python -m experiments.study --config=configs/studies/voxmol_percent.py --workdir=studies/percent
    python -m experiments.study --config=configs/studies/voxmol_percent.py --config.scale=gpu --workdir=... --jobs=2
    python -m experiments.study --config=... --workdir=... --dry_run --only='*augmentation=none*'

Every run is a folder of experiments.train under WORKDIR/runs and a process of its own, followed by what the study
measures of each (generated molecules, latents); runs that others start from come first, under WORKDIR/pretraining.
What is finished is not run again, what was interrupted goes on, what fails (its output is in log.txt) does not stop the
others. The report is drawn anew after each run: WORKDIR/report.html, percent.png and .pdf, results.csv. Any field of
all runs can be changed, e.g. --config.base.training.steps=1000; --config.scale picks cpu (minutes on 2 cores), gpu
(hours) or paper.
"""

import concurrent.futures
import importlib
import pathlib
import shlex
import subprocess
import sys
import time
from typing import NamedTuple

from absl import app, flags
from ml_collections import config_flags

from equiscale.studies import sweep, sweep_report
from experiments.config import CONFIGS, command, read_config

CONFIG = config_flags.DEFINE_config_file("config", None, "the study: a file of configs/studies")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the study; an interrupted one goes on")
LIST = flags.DEFINE_bool("list", False, "list the studies there are and what each reproduces")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "list the runs, and how far each is")
ONLY = flags.DEFINE_string("only", "*", "runs whose names match this pattern")
JOBS = flags.DEFINE_integer("jobs", 1, "runs at the same time, as processes of this machine", lower_bound=1)


def main(argv):
    with command(argv):
        if LIST.value:
            list_studies()
            return
        if CONFIG.value is None or WORKDIR.value is None:
            raise ValueError("--config and --workdir are needed; --list shows the studies there are")
        failed = run(_study(), pathlib.Path(WORKDIR.value).absolute())
    sys.exit(1 if failed else 0)


def _study() -> sweep.Study:
    """The study at the scale asked for, with single fields overridden by the command line."""
    return study_of(read_config(CONFIG, "scale"))


def study_of(config) -> sweep.Study:
    """The study of a file of configs/studies."""
    first = config_of(config.pretraining.task, config.pretraining.preset) if "pretraining" in config else None
    return sweep.Study.of(config, config_of(config.base.task, config.base.preset), first)


def config_of(task: str, preset: str):
    """A task's own config."""
    return importlib.import_module(f"configs.{task}").get_config(preset)


def list_studies() -> None:
    for path in sorted((CONFIGS / "studies").glob("*.py")):
        if path.stem != "__init__":
            config = importlib.import_module(f"configs.studies.{path.stem}").get_config()
            study = study_of(config)
            jobs = plan(study, pathlib.Path())
            print(f"configs/studies/{path.name}\n    {study.title}\n    {study.reproduces}; {len(jobs)} runs\n")


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


def run(study: sweep.Study, workdir: pathlib.Path) -> dict[str, str]:
    """Run what is missing and report; returns the runs that failed, with the last line each printed."""
    study.check(config_of)
    jobs = plan(study, workdir, ONLY.value)
    if DRY_RUN.value:
        for job in jobs:
            print(f"{_state(job.progress):>16}  {job.name}")
            for words in commands_left(job):
                print(f"{'':>18}{shlex.join(words)}")
        return {}
    todo = [job for job in jobs if commands_left(job)]
    print(f"{study.title}: {len(jobs)} runs, {len(jobs) - len(todo)} of them finished", flush=True)
    failed: dict[str, str] = {}
    folders = {r.name: workdir / "runs" / r.name for r in study.runs()}
    began, path, n = time.time(), None, 0
    for stage in ([job for job in todo if job.study is not study], [job for job in todo if job.study is study]):
        with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
            waiting = {pool.submit(execute, job): job for job in stage}
            for future in concurrent.futures.as_completed(waiting):
                job, why, n = waiting[future], future.result(), n + 1
                if why:
                    failed[job.name] = why
                left = (time.time() - began) / n * (len(todo) - n) / 60
                print(f"[{n}/{len(todo)}, {left:.0f} min left] {job.name}: {_outcome(job, why)}", flush=True)
                path = report(study, workdir, folders, failed) or path
    path = report(study, workdir, folders, failed) or path
    print(f"\n{len(failed)} failed\n" + "\n".join(f"  {name}: {why}" for name, why in failed.items()) if failed else "")
    print(f"Report: {path}" if path else "nothing to report")
    return failed


def commands_left(job: Job) -> list[list[str]]:
    """What is still to be run for one run of the study, in order: its training, then what is measured of it."""
    words = []
    if not _done(job.folder):
        fields = [f"--config.{name}={value}" for name, value in job.run.overrides.items()]
        words.append(["train", f"--config=configs/{job.run.task}.py", f"--config.preset={job.study.preset}", *fields])
    for m in job.study.measurements:
        if not (job.folder / m.result).exists():
            words.append([m.command, *(f"--{name}={value}" for name, value in m.flags.items())])
    return [["python", "-m", f"experiments.{command}", f"--workdir={job.folder}", *rest] for command, *rest in words]


def execute(job: Job) -> str | None:
    """What is left of one run, each command a process; None, or the last line printed by the one that failed."""
    if job.after is not None and not _done(job.after):
        return f"{job.after} is not finished, and it starts from there"
    job.folder.mkdir(parents=True, exist_ok=True)
    print(f"{job.name}: started, output in {job.folder / 'log.txt'}", flush=True)
    for words in commands_left(job):
        with (job.folder / "log.txt").open("a") as log:
            command_line = [sys.executable, *words[1:]]
            done = subprocess.run(command_line, stdout=log, stderr=subprocess.STDOUT, cwd=CONFIGS.parent)
        if done.returncode:
            lines = (job.folder / "log.txt").read_text(errors="replace").strip().splitlines()
            return lines[-1][-300:] if lines else f"exit status {done.returncode}"
    return None


def report(study: sweep.Study, workdir: pathlib.Path, folders, failed) -> pathlib.Path | None:
    found = {name: p for name, folder in folders.items() if (p := sweep.progress(folder)) is not None}
    if not any(p.rows for p in found.values()):
        return None
    return sweep_report.write(workdir, study, found, failed, "python -m experiments.study " + shlex.join(sys.argv[1:]))


def _state(p: sweep.Progress | None) -> str:
    return "not begun" if p is None else "finished" if p.done else f"step {p.step} of {p.steps}"


def _done(folder: pathlib.Path) -> bool:
    found = sweep.progress(folder)
    return found is not None and found.done


def _outcome(job: Job, why: str | None) -> str:
    if why:
        return f"FAILED: {why}"
    last = job.progress.rows[-1]
    return f"{last['percent']:.3g} % at step {last['step']}, {last['seconds']:.0f} s"


if __name__ == "__main__":
    app.run(main)
