"""Run a study: train every combination of its axes, measure along the way, draw and report.

    python -m experiments.study --list
    python -m experiments.study --config=configs/studies/voxmol_percent.py --workdir=studies/percent
    python -m experiments.study --config=configs/studies/voxmol_percent.py --config.scale=gpu --workdir=... --jobs=2
    python -m experiments.study --config=... --workdir=... --dry_run --only='*augmentation=none*'
    python -m experiments.study --config=... --workdir=... --submit=slurm --submit_with=timeout_min=240,gpus_per_node=1

Every run is a folder of experiments.train under WORKDIR/runs and a process of its own, followed by what the study
measures of each (generated molecules, latents); runs that others start from come first, under WORKDIR/pretraining.
What is finished is not run again, what was interrupted goes on, what fails (its output is in log.txt) does not stop the
others. The report is drawn anew after each run: WORKDIR/report.html, percent.png and .pdf, results.csv. Any field of
all runs can be changed, e.g. --config.base.training.steps=1000; --config.scale picks cpu (minutes on 2 cores), gpu
(hours) or paper.

--dry_run tells beforehand what the runs cost: operations, memory and time. --submit queues what is left and returns;
--status follows the runs from any terminal, wherever they are, and --report draws what is there already.
"""

import concurrent.futures
import importlib
import pathlib
import shlex
import sys
import time

from absl import app, flags
from ml_collections import config_flags

from equiscale.studies import sweep, sweep_report
from experiments import cluster, dry_run, status
from experiments.config import CONFIGS, command, read_config
from experiments.jobs import Job, config_of, execute, plan, stages, study_of

CONFIG = config_flags.DEFINE_config_file("config", None, "the study: a file of configs/studies")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the study; an interrupted one goes on")
LIST = flags.DEFINE_bool("list", False, "list the studies there are and what each reproduces")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "list the runs with what they cost, and run none")
SPEED = flags.DEFINE_float("speed", None, "FLOP a second to tell times of --dry_run by", lower_bound=1.0)
STATUS = flags.DEFINE_bool("status", False, "show how far the runs are until all are done, and run none")
EVERY = flags.DEFINE_float("every", 5.0, "seconds between drawings of the table of runs; 0: one", lower_bound=0.0)
REPORT = flags.DEFINE_bool("report", False, "draw the report of what is there, and run nothing")
ONLY = flags.DEFINE_string("only", "*", "runs whose names match this pattern")
JOBS = flags.DEFINE_integer("jobs", None, "runs at the same time; here one, in a queue all if not said", lower_bound=1)
SUBMIT = flags.DEFINE_enum("submit", None, cluster.CLUSTERS, "queue the runs there instead, --jobs of them at once")
SUBMIT_WITH = flags.DEFINE_list("submit_with", [], "name=value,...: what submitit is told, e.g. timeout_min=240")


def main(argv):
    with command(argv):
        if LIST.value:
            list_studies()
            return
        if CONFIG.value is None or WORKDIR.value is None:
            raise ValueError("--config and --workdir are needed; --list shows the studies there are")
        failed = run(study_of(read_config(CONFIG, "scale")), pathlib.Path(WORKDIR.value).absolute())
    sys.exit(1 if failed else 0)


def list_studies() -> None:
    for path in sorted((CONFIGS / "studies").glob("*.py")):
        if path.stem != "__init__":
            config = importlib.import_module(f"configs.studies.{path.stem}").get_config()
            study = study_of(config)
            jobs = plan(study, pathlib.Path())
            print(f"configs/studies/{path.name}\n    {study.title}\n    {study.reproduces}; {len(jobs)} runs\n")


def run(study: sweep.Study, workdir: pathlib.Path) -> dict[str, str]:
    """What the flags ask for; returns the runs that failed, with the last line each printed."""
    study.check(config_of)
    jobs = plan(study, workdir, ONLY.value)
    if DRY_RUN.value:
        dry_run.show(jobs, SPEED.value)
        return {}
    if STATUS.value:
        status.follow(jobs, EVERY.value)
        return {}
    if REPORT.value:
        print(f"Report: {report(study, workdir, jobs) or 'nothing to report'}")
        return {}
    left = stages(jobs)
    print(f"{study.title}: {len(jobs)} runs, {len(jobs) - sum(map(len, left))} of them finished", flush=True)
    if SUBMIT.value:
        queued = cluster.submit(left, SUBMIT.value, workdir / "queue", JOBS.value, SUBMIT_WITH.value)
        print(f"queued {len(queued)} jobs: {', '.join(queued)}; output in {workdir / 'queue'}")
        print("The same command with --status follows them, with --report it draws what is there")
        return {}
    failed = run_here(study, workdir, jobs, left)
    path = report(study, workdir, jobs)
    print(f"\n{len(failed)} failed\n" + "\n".join(f"  {name}: {why}" for name, why in failed.items()) if failed else "")
    print(f"Report: {path}" if path else "nothing to report")
    return failed


def run_here(study: sweep.Study, workdir: pathlib.Path, jobs: list[Job], left: list[list[Job]]) -> dict[str, str]:
    """Run what is left on this machine, stage after stage, drawing the report after each run."""
    failed: dict[str, str] = {}
    live = status.Live([job for stage in left for job in stage])
    total, n, began = len(live.jobs), 0, time.time()
    for stage in left:
        with concurrent.futures.ThreadPoolExecutor(JOBS.value or 1) as pool:
            waiting = {pool.submit(_begin, job): job for job in stage}
            while waiting:
                done, _ = concurrent.futures.wait(waiting, EVERY.value or None, concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    job, why, n = waiting.pop(future), future.result(), n + 1
                    if why:
                        failed[job.name] = why
                    minutes = (time.time() - began) / n * (total - n) / 60
                    live.clear()
                    print(f"[{n}/{total}, {minutes:.0f} min left] {job.name}: {_outcome(job, why)}", flush=True)
                    report(study, workdir, jobs)
                live.draw()
    live.clear()
    return failed


def report(study: sweep.Study, workdir: pathlib.Path, jobs: list[Job]) -> pathlib.Path | None:
    folders = {r.name: workdir / "runs" / r.name for r in study.runs()}  # also of runs that were not asked for
    failed = {job.name: why for job in jobs if (why := job.failure)}
    found = {name: p for name, folder in folders.items() if (p := sweep.progress(folder)) is not None}
    if not any(p.rows for p in found.values()):
        return None
    words = [word for word in sys.argv[1:] if word != "--report"]
    return sweep_report.write(workdir, study, found, failed, "python -m experiments.study " + shlex.join(words))


def _begin(job: Job) -> str | None:
    if not sys.stdout.isatty():  # where a table shows it
        print(f"{job.name}: started, output in {job.folder / 'log.txt'}", flush=True)
    return execute(job)


def _outcome(job: Job, why: str | None) -> str:
    if why:
        return f"FAILED: {why}"
    last = job.progress.rows[-1]
    return f"{last['percent']:.3g} % at step {last['step']}, {last['seconds']:.0f} s"


if __name__ == "__main__":
    app.run(main)
