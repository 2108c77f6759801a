"""Run a study: train every combination of its axes, measure along the way, draw and report.

    python -m experiments.study --list
    python -m experiments.study --config=configs/studies/voxmol_percent.py --workdir=studies/percent
    python -m experiments.study --config=configs/studies/voxmol_percent.py --config.scale=gpu --workdir=... --jobs=2
    python -m experiments.study --config=... --workdir=... --dry_run --only='*augmentation=none*'

Every run is a folder of experiments.train under WORKDIR/runs and a process of its own, followed by what the study
measures of each (generated molecules, latents): what is finished is not run again, what was interrupted goes on, what
fails (its output is in log.txt) does not stop the others. The report is drawn
anew after each run: WORKDIR/report.html, percent.png and .pdf, results.csv. Any field of all runs can be changed, e.g.
--config.base.training.steps=1000; --config.scale picks cpu (minutes on 2 cores), gpu (hours) or paper.
"""

import concurrent.futures
import importlib
import pathlib
import shlex
import subprocess
import sys
import time

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
    config = read_config(CONFIG, "scale")
    return sweep.Study.of(config, config_of(config.base.task, config.base.preset))


def config_of(task: str, preset: str):
    """A task's own config."""
    return importlib.import_module(f"configs.{task}").get_config(preset)


def list_studies() -> None:
    for path in sorted((CONFIGS / "studies").glob("*.py")):
        if path.stem != "__init__":
            config = importlib.import_module(f"configs.studies.{path.stem}").get_config()
            study = sweep.Study.of(config, config_of(config.base.task, config.base.preset))
            print(f"configs/studies/{path.name}\n    {study.title}\n    {study.reproduces}; {len(study.runs())} runs\n")


def run(study: sweep.Study, workdir: pathlib.Path) -> dict[str, str]:
    """Run what is missing and report; returns the runs that failed, with the last line each printed."""
    study.check(config_of)
    runs = study.runs(ONLY.value)
    folders = {r.name: workdir / "runs" / r.name for r in study.runs()}
    if DRY_RUN.value:
        for r in runs:
            print(f"{_state(sweep.progress(folders[r.name])):>16}  {r.name}")
            for words in commands_left(study, r, folders[r.name]):
                print(f"{'':>18}{shlex.join(words)}")
        return {}
    todo = [r for r in runs if commands_left(study, r, folders[r.name])]
    print(f"{study.title}: {len(runs)} runs, {len(runs) - len(todo)} of them finished", flush=True)
    failed: dict[str, str] = {}
    began, path = time.time(), None
    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
        waiting = {pool.submit(execute, study, r, folders[r.name]): r for r in todo}
        for n, future in enumerate(concurrent.futures.as_completed(waiting), start=1):
            r, why = waiting[future], future.result()
            if why:
                failed[r.name] = why
            left = (time.time() - began) / n * (len(todo) - n) / 60
            print(f"[{n}/{len(todo)}, {left:.0f} min left] {r.name}: {_outcome(folders[r.name], why)}", flush=True)
            path = report(study, workdir, folders, failed) or path
    path = report(study, workdir, folders, failed) or path
    print(f"\n{len(failed)} failed\n" + "\n".join(f"  {name}: {why}" for name, why in failed.items()) if failed else "")
    print(f"Report: {path}" if path else "nothing to report")
    return failed


def commands_left(study: sweep.Study, r: sweep.Run, folder: pathlib.Path) -> list[list[str]]:
    """What is still to be run for one run of the study, in order: its training, then what is measured of it."""
    words = []
    found = sweep.progress(folder)
    if not (found and found.done):
        fields = [f"--config.{name}={value}" for name, value in r.overrides.items()]
        words.append(["train", f"--config=configs/{r.task}.py", f"--config.preset={study.preset}", *fields])
    for m in study.measurements:
        if not (folder / m.result).exists():
            words.append([m.command, *(f"--{name}={value}" for name, value in m.flags.items())])
    return [["python", "-m", f"experiments.{command}", f"--workdir={folder}", *rest] for command, *rest in words]


def execute(study: sweep.Study, r: sweep.Run, folder: pathlib.Path) -> str | None:
    """What is left of one run, each command a process; None, or the last line printed by the one that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{r.name}: started, output in {folder / 'log.txt'}", flush=True)
    for words in commands_left(study, r, folder):
        with (folder / "log.txt").open("a") as log:
            done = subprocess.run(
                [sys.executable, *words[1:]], stdout=log, stderr=subprocess.STDOUT, cwd=CONFIGS.parent
            )
        if done.returncode:
            lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            return lines[-1][-300:] if lines else f"exit status {done.returncode}"
    return None


def report(study: sweep.Study, workdir: pathlib.Path, folders, failed) -> pathlib.Path | None:
    found = {name: p for name, folder in folders.items() if (p := sweep.progress(folder)) is not None}
    if not any(p.rows for p in found.values()):
        return None
    return sweep_report.write(workdir, study, found, failed, "python -m experiments.study " + shlex.join(sys.argv[1:]))


def _state(p: sweep.Progress | None) -> str:
    return "not begun" if p is None else "finished" if p.done else f"step {p.step} of {p.steps}"


def _outcome(folder: pathlib.Path, why: str | None) -> str:
    if why:
        return f"FAILED: {why}"
    last = sweep.progress(folder).rows[-1]
    return f"{last['percent']:.3g} % at step {last['step']}, {last['seconds']:.0f} s"


if __name__ == "__main__":
    app.run(main)
