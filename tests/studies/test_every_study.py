"""One run of every study at its smallest scale, trained and reported as `experiments.study` does it."""

import csv
import html
import importlib
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest

from equiscale.studies import sweep, sweep_report
from equiscale.training.loop import train
from equiscale.training.run_folder import open_run
from experiments.config import read_instruments, read_settings
from experiments.jobs import plan, study_of
from experiments.tasks import load_experiment
from tests.commands import command, start
from tests.training.test_parallel import mesh_of

NAMES = sorted(p.stem for p in (pathlib.Path(__file__).parents[2] / "configs/studies").glob("*.py") if p.stem[0] != "_")


def smoke(name):
    return study_of(importlib.import_module(f"configs.studies.{name}").get_config("smoke"))


@pytest.mark.parametrize("name", NAMES)
def test_all_its_runs_can_be_made(name, tmp_path):
    """Every combination of its axes is a task with a model, which has what the study measures along the way."""
    jobs = plan(smoke(name), tmp_path)
    for job in jobs:
        task = load_experiment(job.config).task
        wanted = set(job.config.evaluation.instruments) - {"scores"}  # all of the task's
        assert wanted <= read_instruments(job.config, task, mesh_of(1)).keys()
        assert read_settings(job.config).steps > 0
    assert len({job.run.name for job in jobs}) == len(jobs)


@pytest.mark.parametrize("name", ["proteina_percent", "proteina_targets", "proteina_triangles"])
def test_figures_by_flow_time_have_what_they_draw(name, tmp_path):
    assert all("times" in job.config.evaluation.instruments for job in plan(smoke(name), tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_its_first_run_trains_and_is_reported(name, tmp_path):
    study, mesh = smoke(name), mesh_of(1)
    job = next(job for job in plan(study, tmp_path) if job.study is study and job.after is None)
    open_run(job.folder, job.config.to_dict())
    task = load_experiment(job.config).task
    instruments = read_instruments(job.config, task, mesh)
    train(task, read_settings(job.config), job.folder, title=name, mesh=mesh, instruments=instruments)
    first, *_, last = job.progress.rows
    assert job.state == "finished" and np.isfinite([last["total"], last["percent"]]).all()
    assert instruments.keys() <= last.keys() and last["total"] != first["total"]
    page = sweep_report.write(tmp_path, study, {job.run.name: job.progress}, {}, "the command").read_text()
    assert html.escape(study.heading) in page and (tmp_path / "results.csv").exists()


@pytest.mark.slow  # every run of every study with what is measured of it: 18 minutes to an hour
@pytest.mark.parametrize("name", NAMES)
def test_all_of_it(name, tmp_path):
    arguments = f"--config=configs/studies/{name}.py", "--config.scale=smoke", f"--workdir={tmp_path}"
    done = start(*arguments, module="study")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert all(sweep.progress(job.folder).done for job in plan(smoke(name), tmp_path))
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow  # runs are killed and go on in tests.training.test_interruption
def test_killed_half_way_it_ends_with_the_same_tables(tmp_path):
    def arguments(folder):
        return "--config=configs/studies/escaip_percent.py", "--config.scale=smoke", f"--workdir={tmp_path / folder}"

    assert start(*arguments("whole"), module="study").returncode == 0
    line, settings = command(*arguments("killed"), module="study")
    process = subprocess.Popen(line, **settings, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (first := list((tmp_path / "killed" / "runs").glob("*/metrics.jsonl"))) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert first and not (tmp_path / "killed" / "results.csv").exists()
    done = start(*arguments("killed"), module="study")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    tables = []
    for folder in ("whole", "killed"):
        with (tmp_path / folder / "results.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k != "train_seconds"} for row in csv.DictReader(file)])
    assert tables[0] == tables[1] and len(tables[0]) == 2
