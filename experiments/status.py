"""How far the runs of a study are, as a table that follows them on a terminal."""

import collections
import shutil
import sys
import time
from collections.abc import Sequence

from experiments.jobs import Job, commands_left

SILENT = 600  # seconds without a new row or line after which a run that is not finished is not taken to be running


def table(jobs: Sequence[Job], most: int | None = None) -> list[str]:
    """A line a job, those that are running first; with `most`, at most so many, and how many more there are."""
    rows = [(_order(job), job) for job in jobs]
    rows.sort(key=lambda row: row[0])
    counts = collections.Counter(("running", "failed", "finished", "to do")[order] for order, _ in rows)
    lines = [", ".join(f"{n} {word}" for word, n in counts.items())]
    lines.append(f"{'state':>18} {'loss':>9} {'equiv':>8} {'ex/s':>8} {'so far':>8} {'left':>8}  run")
    shown = rows if most is None else rows[: max(most - 3, 1)]
    lines += [_line(job) for _, job in shown]
    if len(shown) < len(rows):
        lines.append(f"{'...':>18} {len(rows) - len(shown)} more")
    return lines


class Live:
    """A table drawn over its last drawing where there is a terminal, and else not at all."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs, self.lines = jobs, 0

    def draw(self) -> None:
        if not sys.stdout.isatty():
            return
        size = shutil.get_terminal_size()
        found = [line[: size.columns - 1] for line in table(self.jobs, most=size.lines - 2)]
        self.clear()
        print("\n".join(found), flush=True)
        self.lines = len(found)

    def clear(self) -> None:
        """Before other lines are printed."""
        if self.lines:
            sys.stdout.write(f"\x1b[{self.lines}F\x1b[J")
            self.lines = 0


def follow(jobs: Sequence[Job], every: float) -> None:
    """Draw the table until nothing is left to do; once, where `every` is 0 or there is no terminal."""
    live = Live(jobs)
    if not every or not sys.stdout.isatty():
        print("\n".join(table(jobs)))
        return
    while True:
        live.draw()
        if not any(map(commands_left, jobs)):
            return
        time.sleep(every)


def _order(job: Job) -> int:
    if not commands_left(job):
        return 2
    if job.failure:
        return 1
    return 0 if _is_running(job) else 3


def _is_running(job: Job) -> bool:
    """Whether something was written lately."""
    written = [path.stat().st_mtime for name in ("log.txt", "metrics.jsonl") if (path := job.folder / name).exists()]
    return bool(written) and time.time() - max(written) < SILENT


def _line(job: Job) -> str:
    p = job.progress
    state = "failed" if job.failure else job.state
    if p is not None and p.done and commands_left(job) and not job.failure:
        state = "measuring"
    if p is None or not p.rows:
        return f"{state:>18} {'':>9} {'':>8} {'':>8} {'':>8} {'':>8}  {job.name}"
    last = p.rows[-1]
    rate, seconds = last.get("examples_per_second"), last["seconds"]
    left = seconds * (p.steps / p.step - 1) if p.step and not p.done else None
    numbers = f"{last['total']:>9.3g} {last['percent']:>7.3g}% {'' if rate is None else f'{rate:.3g}':>8}"
    times = f"{duration(seconds):>8} {'' if left is None else duration(left):>8}"
    return f"{state:>18} {numbers} {times}  {job.name}"


def duration(seconds: float) -> str:
    """Short."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
