"""A study's runs before, while and after they run: what they will cost, how far they are, and how they are queued."""

import os
import time

import pytest

from configs.studies import voxmol_properties
from equiscale.studies.sweep import Axis, Measurement, Study, one_field
from equiscale.training.prediction import Cost
from experiments import cluster, dry_run, status
from experiments.jobs import FAILED, Job, commands_left, config_of, plan, stages, study_of
from tests.studies.test_sweep import row, write_run

STUDY = Study(
    "A study",
    "a figure",
    "denoise_points",
    "smoke",
    {"training.steps": 4},
    (one_field("augmentation", "cube", "none"), one_field("seed", 0, 1)),
)


def test_runs_that_others_start_from_are_the_first_stage(tmp_path):
    study = study_of(voxmol_properties.get_config("smoke"))
    first, second = stages(plan(study, tmp_path))
    assert {job.folder for job in first} >= {job.after for job in second}
    assert all(job.after is None for job in first) and len(first) + len(second) == len(plan(study, tmp_path))


def test_a_dry_run_tells_costs_once_a_program_and_what_is_left(tmp_path, capsys, monkeypatch):
    traced = []
    monkeypatch.setattr(dry_run, "load_experiment", lambda config: type("E", (), {"task": config})())
    monkeypatch.setattr(
        dry_run, "cost_of", lambda task, *_: traced.append(task.augmentation) or Cost(7, 35, 1e9, 8e9, 2_000_000)
    )
    todo = plan(STUDY, tmp_path)
    write_run(todo[0].folder, [row(0, 60.0), row(4, 5.0) | {"seconds": 2.0}])
    write_run(todo[1].folder, [row(0, 60.0), row(1, 9.0) | {"seconds": 2.0}])
    dry_run.show(todo)
    told = capsys.readouterr().out
    assert traced == ["cube", "none"]  # seeds cost the same
    # One and a quarter runs of 8 GFLOP took 4 s; two and three quarters are left.
    assert "3 of 4 runs left: 2.2e+10 FLOP, time one after the other: 9 s" in told
    assert "2.5 GFLOP/s, of 2 runs that are there" in told and "2.0 MB" in told
    lines = [line for line in told.splitlines() if line.endswith(todo[1].name)]
    assert "step 1 of 4" in lines[0] and lines[0].split()[-2:-1] == ["s"]
    dry_run.show(todo, flops_per_second=1e9)
    assert "time one after the other: 22 s" in capsys.readouterr().out
    monkeypatch.setattr(dry_run, "cost_of", lambda *_: Cost(7, 35, 1e15, 8e15, 2_000_000))
    dry_run.show(todo[2:])
    told = capsys.readouterr().out
    assert "a step is too large to try here" in told and "time one after the other: unknown" in told


def test_some_arms_alone_may_be_measured(tmp_path):
    study = STUDY._replace(measurements=(Measurement("symmetrise", {}, "symmetrise.json", arms=("none",)),))
    counts = {job.name: len(commands_left(job)) for job in plan(study, tmp_path)}
    assert counts == {f"augmentation={name},seed={i}": n for name, n in (("cube", 1), ("none", 2)) for i in (0, 1)}
    unknown = study._replace(measurements=(Measurement("symmetrise", {}, "symmetrise.json", arms=("plain",)),))
    with pytest.raises(ValueError, match=r"symmetrise of \['plain'\]: the arms are \['cube', 'none'\]"):
        unknown.check(config_of)


def test_the_table_of_runs(tmp_path):
    study = STUDY._replace(measurements=(Measurement("latents", {}, "latents.json"),))
    todo = plan(study, tmp_path)
    assert status.table(todo)[0] == "4 to do"
    write_run(todo[0].folder, [row(0, 60.0), row(4, 5.0) | {"seconds": 100.0}])
    write_run(todo[1].folder, [row(0, 60.0), row(1, 9.0) | {"seconds": 100.0, "examples_per_second": 12.0}])
    todo[2].folder.mkdir(parents=True)
    (todo[2].folder / FAILED).write_text("out of memory")
    lines = status.table(todo)
    assert lines[0] == "2 running, 1 failed, 1 to do"
    by_name = {line.split()[-1]: line for line in lines[2:]}
    assert "measuring" in by_name[todo[0].name] and "5.0 min" in by_name[todo[1].name] and "12" in by_name[todo[1].name]
    assert "failed" in by_name[todo[2].name]
    (todo[0].folder / "latents.json").write_text("{}")
    long_ago = time.time() - 2 * status.SILENT
    os.utime(todo[1].folder / "metrics.jsonl", (long_ago, long_ago))
    lines = status.table(todo, most=5)
    assert lines[0] == "1 failed, 1 finished, 2 to do" and len(lines) == 5 and lines[-1].endswith("2 more")


def test_runs_can_be_queued(tmp_path, monkeypatch):
    """Real processes of submitit's local queue; one that cannot start ends with what its command said last."""
    pytest.importorskip("submitit")
    bad = Axis("data", {"none": {"data.limit": -1}})
    study = STUDY._replace(axes=(bad,))
    (job,) = plan(study, tmp_path)
    (number,) = cluster.submit([[], [job]], "local", tmp_path / "queue", 1, ["timeout_min=5"])
    import submitit

    found = submitit.LocalJob(tmp_path / "queue", number).exception()
    assert job.name in str(found) and job.failure in str(found) and "limit=-1" in job.failure
    with pytest.raises(ValueError, match="give name=value"):
        cluster.submit([[job]], "local", tmp_path / "queue", 1, ["timeout_min"])
    with pytest.raises(ValueError, match="--submit_with"):
        cluster.submit([[job]], "local", tmp_path / "queue", 1, ["timeout_minutes=3"])


def test_a_cluster_is_told_what_it_needs(tmp_path, monkeypatch):
    """By the files handed to sbatch, here a script that keeps them: arrays, the order of stages, what was asked for."""
    pytest.importorskip("submitit")
    for name in ("srun", "sbatch"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\ncat "$1" >> {tmp_path}/sent\necho Submitted batch job 77\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    study = study_of(voxmol_properties.get_config("smoke"))
    left = stages(plan(study, tmp_path / "study"))
    wanted = ["timeout_min=240", "slurm_partition=gpu", "gpus_per_node=1"]
    numbers = cluster.submit(left, "slurm", tmp_path / "queue", None, wanted)
    assert len(numbers) == sum(map(len, left))
    sent = (tmp_path / "sent").read_text()
    assert f"--array=0-{len(left[0]) - 1}%{len(left[0])}" in sent and "--dependency=afterany:77_0:77_1" in sent
    assert sent.count("--partition=gpu") == 2 and sent.count("--time=240") == 2 and "--gpus-per-node=1" in sent
    assert sent.count(f"cd {cluster.CONFIGS.parent}") == 2


def test_a_job_has_the_config_it_is_trained_by(tmp_path):
    job = plan(STUDY, tmp_path)[-1]
    assert isinstance(job, Job) and job.config.training.steps == 4
    assert (job.config.augmentation, job.config.seed, job.config.task) == ("none", 1, "denoise_points")
