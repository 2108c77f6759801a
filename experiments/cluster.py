"""Handing the runs of a study to a cluster's queue, as one array of jobs, through submitit."""

import pathlib
import shlex

from experiments.config import CONFIGS
from experiments.jobs import Job, execute

CLUSTERS = ("slurm", "local")  # "local": processes of this machine that outlive the command, as a trial of the other


def submit(
    stages: list[list[Job]], cluster: str, folder: pathlib.Path, at_once: int | None, wanted: list[str]
) -> list[str]:
    """Numbers of the jobs queued, one a run, `at_once` (None: all) at a time; those of a stage begin when the stage
    before has ended.

    `wanted` are fields of submitit's `update_parameters`, as "name=value"; `folder` receives the jobs' output. Raises
    ImportError without submitit, ValueError for what is no such field.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("queueing runs needs submitit: pip install 'equiscale[slurm]'") from error
    fields = dict(_field(one) for one in wanted)
    numbers: list[str] = []
    for stage in stages:
        if not stage:
            continue
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        before = f"afterany:{':'.join(numbers)}" if numbers else None
        if cluster == "slurm":
            fields |= {
                "slurm_array_parallelism": at_once or len(stage),
                "slurm_setup": [f"cd {shlex.quote(str(CONFIGS.parent))}"],
            }
            fields |= {"slurm_additional_parameters": {"dependency": before}} if before else {}
        try:
            executor.update_parameters(name="equiscale", **fields)
        except NameError as error:  # what submitit raises for unknown names
            raise ValueError(f"--submit_with: {error}") from error
        queued = executor.map_array(run, stage)
        if cluster == "local" and stage is not stages[-1]:  # whose queue knows no order
            for job in queued:
                job.exception()  # waits
        numbers += [job.job_id for job in queued]
    return numbers


def run(job: Job) -> None:
    """On the cluster. Raises RuntimeError with the last line of a command that failed, so that its queue says so."""
    if why := execute(job):
        raise RuntimeError(f"{job.name}: {why}")


def _field(words: str) -> tuple[str, int | str]:
    name, equals, value = words.partition("=")
    if not equals:
        raise ValueError(f"--submit_with={words}: give name=value, as in timeout_min=240,slurm_partition=gpu")
    return name, int(value) if value.isdigit() else value
