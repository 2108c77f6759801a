"""How many steps until a network has learned its symmetry: the first with percent below a level, over seeds."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from equiscale.studies.crossings import NEVER, Interval, first_reached
from equiscale.studies.figures import Rows, column
from equiscale.studies.report import table, write_csv

LEVELS = (1.0, 0.1)  # percent of the loss
DRAWS = 1_000


class Time(NamedTuple):
    """The median over seeds of the step at which percent falls below a level; `NEVER` where half or more did not."""

    step: Interval
    reached: int  # seeds
    n_seeds: int
    last: int  # the step until which all seeds were watched

    def __str__(self) -> str:
        value, low, high = (f"{x:.0f}" for x in self.step)
        if self.step.high == 0:
            return "from the start"
        if self.step.low == NEVER:
            return f"not by step {self.last}"
        if self.step.value == NEVER:
            return f"not by step {self.last} (from {low} on; {self.reached} of {self.n_seeds} seeds)"
        return f"{value} ({low} to {f'beyond {self.last}' if self.step.high == NEVER else high})"


def time_to(curves: Sequence[Rows], level: float, seed: int = 0) -> Time:
    """From one curve a seed. Seeds that have not reached the level when they end count as later than all that have.

    Draws for the interval take seeds anew, and move all their curves by the standard error over validation examples,
    which seeds and steps may share and so do not average away.
    """
    rng = np.random.default_rng(seed)
    known = [_curve(rows) for rows in curves]

    def times(z: float) -> np.ndarray:
        return np.array([first_reached(step, percent * np.exp(z * error), level) for step, percent, error in known])

    found = times(0.0)
    draws = [_median(rng.choice(times(z), len(known))) for z in rng.standard_normal(DRAWS)]
    step = Interval.of(_median(found), np.array(draws))
    return Time(step, int(np.sum(found < NEVER)), len(known), int(min(steps[-1] for steps, *_ in known)))


def _curve(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, percents (no lower than their floors) and relative errors; below a floor nothing is known but that."""
    percent = np.maximum(column(rows, "percent"), np.maximum(column(rows, "floor"), 1e-30))
    return column(rows, "step"), percent, np.minimum(column(rows, "percent_stderr") / percent, 1.0)


def _median(times: np.ndarray) -> float:
    """Of an even number the geometric mean of both in the middle."""
    ordered = np.sort(times)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(high) if NEVER in (low, high) or low <= 0 else float(np.sqrt(low * high))


def section(workdir: pathlib.Path, arms: Mapping[str, Sequence[Rows]]) -> tuple[str, str]:
    """Heading and body for a report, from the curves of each arm's seeds; the table as a CSV beside it."""
    times = {arm: {level: time_to(curves, level) for level in LEVELS} for arm, curves in arms.items()}
    write_csv(
        workdir / "time_to_equivariance.csv",
        [
            {"arm": arm, "percent": level, "step": t.step.value, "low": t.step.low, "high": t.step.high}
            | {"reached": t.reached, "seeds": t.n_seeds, "last": t.last}
            for arm, of in times.items()
            for level, t in of.items()
        ],
    )
    header = ("arm", *(f"first step below {level:g} %" for level in LEVELS))
    lines = [(arm, *(str(t) for t in of.values())) for arm, of in times.items()]
    note = (
        "<p>Medians over seeds, between evaluations interpolated log-log, with 95 % intervals. A seed that ended "
        "before counts as later, and what has fallen may rise again.</p>"
    )
    return "Steps until the symmetry is learned", table(header, lines) + note
