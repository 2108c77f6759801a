"""Propositions 2 and 3 of the training-dynamics paper, over a run: how the loss ratio bounds the gradients' purity.

    purity <= eps + (L_mean / |grad L_mean|) sqrt(2 M_eps eps)            Eq. 12
    purity <= sqrt(2 M / c) sqrt(L_equiv / L_mean^alpha)                  Eq. 13

with purity = |grad L - grad L_mean| / |grad L_mean| and eps = L_equiv / L_mean (Eq. 11). The constants are properties
of the whole landscape and cannot be computed; what a run shows of them is a lower bound, and is what is used here:

- smoothness M: the largest |grad|^2 / (2 value) met (a non-negative M-smooth function has |grad|^2 <= 2 M value), or
  the largest change of gradient over change of parameters between two points;
- the Kurdyka-Lojasiewicz c, alpha of the mean loss: |grad L_mean|^2 >= c L_mean^alpha, alpha by a log-log fit within
  [1, 2), c the largest for which the inequality holds at every point met.

So where a bound computed here holds, it holds by these constants on these points; where it is violated at a new point,
the run had not yet seen the landscape at its worst.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, " points"]


class Run(NamedTuple):
    """Losses, gradient norms and the cosine between the gradients of mean and equiv, at points along a run."""

    mean: Points
    equiv: Points
    gradient_mean: Points
    gradient_equiv: Points
    cosine: Points

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "Run":
        """From rows with the numbers of `Gradients.record()`. Raises ValueError if no row has them."""
        found = [row for row in rows if "gradient_mean" in row]
        if not found:
            raise ValueError(f"none of the {len(rows)} rows holds gradient norms: measure gradients along the run")
        names = ("loss_mean", "loss_equiv", "gradient_mean", "gradient_equiv", "gradient_cosine")
        return cls(*(np.array([row[name] for row in found], float) for name in names))

    @property
    def ratio(self) -> Points:
        """epsilon, Eq. 11."""
        return self.equiv / self.mean

    @property
    def purity(self) -> Points:
        """The left side of Eqs. 12 and 13, and the gradient-norm ratio of Fig. 7."""
        return self.gradient_equiv / self.gradient_mean

    @property
    def gradient_ratio(self) -> Points:
        """|grad epsilon| = |grad L_equiv - epsilon grad L_mean| / L_mean."""
        a, b, e = self.gradient_equiv, self.gradient_mean, self.ratio
        return np.sqrt(np.maximum(a**2 - 2 * e * self.cosine * a * b + e**2 * b**2, 0)) / self.mean


def smoothness(value: Points, gradient: Points) -> float:
    """The least M for which |grad|^2 <= 2 M value at every point met (points of value 0 or less are left out)."""
    positive = value > 0
    if not positive.any():
        raise ValueError("no point has a positive value: nothing can be said of its smoothness")
    return float(np.max(gradient[positive] ** 2 / (2 * value[positive])))


def secant_smoothness(gradients: Float[np.ndarray, "points n"], parameters: Float[np.ndarray, "points n"]) -> float:
    """The largest |change of gradient| / |change of parameters| between successive points: another lower bound on M."""
    moves = np.linalg.norm(np.diff(parameters, axis=0), axis=1)
    turns = np.linalg.norm(np.diff(gradients, axis=0), axis=1)
    return float(np.max(turns[moves > 0] / moves[moves > 0]))


def fit_lojasiewicz(mean: Points, gradient_mean: Points) -> tuple[float, float]:
    """(c, alpha) of |grad L_mean|^2 >= c L_mean^alpha, as said above. Raises ValueError for fewer than 2 points."""
    if len(mean) < 2:
        raise ValueError(f"a Lojasiewicz exponent needs at least 2 points, got {len(mean)}")
    x, y = np.log(mean), 2 * np.log(gradient_mean)
    slope = np.polyfit(x, y, 1)[0] if np.ptp(x) > 0 else 1.0
    alpha = float(np.clip(slope, 1, np.nextafter(2, 1)))
    return float(np.exp(np.min(y - alpha * x))), alpha


def proposition_2(run: Run, smoothness_of_ratio: float) -> Points:
    """The right side of Eq. 12 at every point, with M_eps."""
    ratio = np.maximum(run.ratio, 0)
    return ratio + run.mean / run.gradient_mean * np.sqrt(2 * smoothness_of_ratio * ratio)


def proposition_3(run: Run, smoothness_of_equiv: float, c: float, alpha: float) -> Points:
    """The right side of Eq. 13 at every point."""
    return np.sqrt(2 * smoothness_of_equiv / c * np.maximum(run.equiv, 0) / run.mean**alpha)


class Bounded(NamedTuple):
    """Purity along a run and both right-hand sides, with the constants the run shows."""

    purity: Points
    by_proposition_2: Points
    by_proposition_3: Points
    constants: dict[str, float]


def bounded(run: Run) -> Bounded:
    """Both propositions over a run, with the constants estimated on the run itself."""
    of_ratio, of_equiv = smoothness(run.ratio, run.gradient_ratio), smoothness(run.equiv, run.gradient_equiv)
    c, alpha = fit_lojasiewicz(run.mean, run.gradient_mean)
    constants = {"M_ratio": of_ratio, "M_equiv": of_equiv, "c": c, "alpha": alpha}
    return Bounded(run.purity, proposition_2(run, of_ratio), proposition_3(run, of_equiv, c, alpha), constants)


def log_log_correlation(run: Run) -> float:
    """Pearson's R of log loss ratio and log gradient-norm ratio over a run (the paper: 0.75 for EScAIP).

    Points where an unbiased estimate fell to 0 or below are left out; NaN for fewer than 3.
    """
    kept = (run.ratio > 0) & (run.purity > 0)
    if kept.sum() < 3:
        return float("nan")
    return float(np.corrcoef(np.log(run.ratio[kept]), np.log(run.purity[kept]))[0, 1])
