"""What a study would still run, and what that costs: operations and memory from shapes, time from what was attained."""

import json
import shlex
from typing import NamedTuple

from tqdm import tqdm

from equiscale.studies.sweep import SEED
from equiscale.training.devices import make_mesh
from equiscale.training.prediction import Cost, cost_of, measure_speed
from experiments.config import read_settings
from experiments.jobs import Job, commands_left
from experiments.status import duration
from experiments.tasks import load_experiment

LARGEST_PROBE = 3e11  # FLOP of a step, above which none is made to see how fast it is


class Speed(NamedTuple):
    """FLOP a second of runs of one task, and where it is from."""

    flops_per_second: float | None
    source: str

    def seconds(self, flop: float) -> float | None:
        return flop / self.flops_per_second if self.flops_per_second else None


def show(jobs: list[Job], flops_per_second: float | None = None) -> None:
    """Print every job with its state, cost and commands, then the sum of what is left.

    Time is what is left of the FLOP over `flops_per_second` or, without that, over the speed of the task's runs that
    are there already (all they did included), or else of some steps of its smallest run on this machine.
    """
    costs: dict[str, Cost] = {}
    programs = {_program(job): job for job in jobs}
    for name, job in tqdm(programs.items(), desc="tracing", unit="program", leave=False):
        config = _config(job)
        costs[name] = cost_of(load_experiment(config).task, read_settings(config), make_mesh())
    given = None if flops_per_second is None else Speed(flops_per_second, "as told")
    speeds = {task: given or _speed([job for job in jobs if job.run.task == task], costs) for task in _tasks(jobs)}

    print(f"{'state':>18} {'parameters':>12} {'examples':>10} {'FLOP':>9} {'memory':>9} {'time':>9}  run")
    flop, times = 0.0, []
    for job in jobs:
        cost, commands = costs[_program(job)], commands_left(job)
        left = _left(job) * cost.flop
        time = speeds[job.run.task].seconds(left)
        flop += left
        times += [time] if left else []
        shown = _told(time) if left else ""
        numbers = f"{cost.parameters:>12,} {cost.examples:>10,} {cost.flop:>9.2g} {_bytes(cost.memory):>9} {shown:>9}"
        print(f"{job.state:>18} {numbers}  {job.name}")
        for words in commands:
            print(f"{'':>18} {shlex.join(words)}")
    n = sum(bool(commands_left(job)) for job in jobs)
    whole = None if None in times else sum(times)
    print(f"\n{n} of {len(jobs)} runs left: {flop:.2g} FLOP, time one after the other: {_told(whole)}")
    for task, speed in speeds.items():
        rate = "unknown" if speed.flops_per_second is None else f"{speed.flops_per_second / 1e9:.3g} GFLOP/s"
        print(f"{task}: {rate}, {speed.source}")
    print(
        "FLOP are of steps and evaluations, without instruments and what is measured after training; memory is at most"
    )


def _told(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds)


def _tasks(jobs: list[Job]) -> list[str]:
    return list(dict.fromkeys(job.run.task for job in jobs))


def _config(job: Job):
    """As it is trained by; what it starts from has no part in its cost, and need not be there."""
    config = job.config
    if job.after is not None and not job.after.exists():
        config.encoder.run = ""
    return config


def _program(job: Job) -> str:
    """What costs depend on: all but the seed."""
    fields = {name: value for name, value in job.run.overrides.items() if name != SEED}
    return json.dumps([job.run.task, job.study.preset, fields], sort_keys=True, default=str)


def _left(job: Job) -> float:
    """The share of its steps."""
    p = job.progress
    return 1.0 if p is None else 1 - min(p.step / p.steps, 1)


def _speed(jobs: list[Job], costs: dict[str, Cost]) -> Speed:
    begun = [job for job in jobs if job.progress is not None and job.progress.step > 0]
    if begun:
        flop = sum((1 - _left(job)) * costs[_program(job)].flop for job in begun)
        seconds = sum(job.progress.rows[-1]["seconds"] for job in begun)
        return Speed(flop / seconds, f"of {len(begun)} runs that are there, from start to end")
    job = min(jobs, key=lambda job: costs[_program(job)].step_flop)
    if costs[_program(job)].step_flop > LARGEST_PROBE:
        return Speed(None, "a step is too large to try here; give --speed, in FLOP a second")
    config, mesh = _config(job), make_mesh()
    speed = measure_speed(load_experiment(config).task, read_settings(config), mesh)
    return Speed(speed, f"some steps of {job.name} here ({mesh.devices.flat[0].device_kind}), compilation not included")


def _bytes(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
