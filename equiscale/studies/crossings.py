"""Curves between their points, log-log and never beyond them: where one reaches a level, what it is at a place."""

from typing import NamedTuple

import numpy as np

NEVER = np.inf  # where a curve does not reach a level before its end


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval; an end may be `NEVER`."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> "Interval":
        """From what resampling gave; quantiles are drawn values, since infinite ones cannot be interpolated."""
        low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
        return cls(float(value), float(low), float(high))


def first_reached(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """The x, in order, at which y > 0 first is at or below a level; `NEVER` where it is not.

    Between two points both are interpolated in their logarithms, x linearly where it starts from 0.
    """
    below = np.flatnonzero(y <= level)
    if not len(below):
        return NEVER
    at = below[0]
    if at == 0:
        return float(x[0])
    share = np.log(y[at - 1] / level) / np.log(y[at - 1] / y[at])
    if x[at - 1] <= 0:
        return float(x[at - 1] + share * (x[at] - x[at - 1]))
    return float(x[at - 1] * (x[at] / x[at - 1]) ** share)


def value_at(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """Of a curve of positive numbers, x rising. Raises ValueError outside of its points."""
    if not x[0] <= at <= x[-1]:
        raise ValueError(f"{at:g} is outside of the curve, which goes from {x[0]:g} to {x[-1]:g}")
    return float(np.exp(np.interp(np.log(at), np.log(x), np.log(y))))
