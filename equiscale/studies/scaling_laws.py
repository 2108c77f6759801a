"""Scaling laws of runs: L(N, D) = E + A / N^a + B / D^b, its forms of one variable, and what of it is determined.

Fitted as in "Training compute-optimal large language models" (arXiv 2203.15556, approach 3): robust least squares of
log residuals from several starts, of the logarithms of all parameters, so that all are positive. Host NumPy only.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

LEVEL = 0.95  # of intervals
DRAWS = 200  # of an interval
LOWEST, HIGHEST = 1e-3, 10.0  # exponents that are looked for
NEGLIGIBLE = 1e-2  # an offset below this share of the smallest loss is none
STARTS = {"offset": (0.02, 0.5, 0.95), "exponent": (0.1, 0.3, 1.0)}  # share of the smallest loss, and exponents


class Law(NamedTuple):
    """offset + sum over variables k of amplitudes[k] / x_k^exponents[k]; the offset may be 0."""

    offset: float
    amplitudes: np.ndarray  # [k]
    exponents: np.ndarray  # [k]

    def loss(self, x: np.ndarray) -> np.ndarray:
        """Of points `[n, k]`."""
        return self.offset + (self.amplitudes * np.asarray(x, float) ** -self.exponents).sum(-1)

    @property
    def numbers(self) -> np.ndarray:
        """Offset, amplitudes, exponents `[1 + 2 k]`."""
        return np.concatenate([[self.offset], self.amplitudes, self.exponents])


class Fit(NamedTuple):
    """A law and the laws of bootstrap draws, of losses `[n]` at points `[n, k]`, each a mean over an arm's seeds."""

    law: Law
    draws: Sequence[Law]
    x: np.ndarray
    loss: np.ndarray

    def interval(self, level: float = LEVEL) -> np.ndarray:
        """Of `law.numbers`, lower and upper ends `[2, 1 + 2 k]`."""
        return _interval([draw.numbers for draw in self.draws], level)

    def band(self, x: np.ndarray, level: float = LEVEL) -> np.ndarray:
        """Of the law's loss at points `[m, k]`: `[2, m]`."""
        return _interval([draw.loss(x) for draw in self.draws], level)

    def undetermined(self, names: Sequence[str]) -> str:
        """Which numbers are no results and why, in words; empty where all are. `names` are those of the variables."""
        ends, k = self.interval(), len(names)
        low = ends[0, 0]
        none = self.law.offset and low < NEGLIGIBLE * self.loss.min()
        found = [f"the offset is not determined: its interval reaches 0 ({low:.2g})"] if none else []
        for name, (low, high) in zip(names, ends[:, 1 + k :].T, strict=True):
            if low < 2 * LOWEST or high > HIGHEST / 2:
                found.append(f"the exponent of {name} is not determined: it may be {low:.2g} or {high:.2g}")
        return "; ".join(found)

    @property
    def saturated(self) -> bool:
        """Whether the smallest loss may be the offset itself, so that nothing is left to gain by these variables."""
        return bool(self.interval()[1, 0] > (1 - NEGLIGIBLE) * self.loss.min())


def _interval(values: Sequence[np.ndarray], level: float) -> np.ndarray:
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def n_needed(n_variables: int, offset: bool) -> int:
    """Arms that a fit needs: one more than the law has parameters, so that it can be wrong."""
    return 2 * n_variables + offset + 1


def fit(x: np.ndarray, losses: Sequence[Sequence[float]], *, offset: bool, n_draws: int = DRAWS, seed: int = 0) -> Fit:
    """The law of arms at `x` `[n, k]`, `losses[i]` those of arm i's seeds, with a two-level bootstrap of its numbers.

    A draw changes each arm's mean log loss by what seeds differ by (their deviations from their arms, drawn anew), and
    by what arms differ from the law beyond that (normal, of a variance that is itself drawn, since few arms tell it
    badly). Raises ValueError for fewer arms than `n_needed`, for a variable with fewer than 3 values (2 without
    offset, of one variable), and for numbers that are not positive.
    """
    x = np.asarray(x, float)
    n, needed = len(x), n_needed(x.shape[1], offset)
    if n < needed:
        raise ValueError(f"{n} points: a law of {needed - 1} parameters needs at least {needed}")
    for column in x.T:
        if (values := len(np.unique(column))) < 3:
            raise ValueError(f"a variable with {values} different values: an exponent needs at least 3")
    if not (np.isfinite(x).all() and (x > 0).all() and all(np.min(of) > 0 for of in losses)):
        raise ValueError("points and losses must be positive: a power law has no others")
    logs = [np.log(of) for of in losses]
    y = np.array([of.mean() for of in logs])
    n_seeds = np.array([len(of) for of in logs])
    problem = _Problem(np.log(x), offset)
    best = problem.solve(y, problem.starts(y), scale=1.0)
    residual = problem.log_loss(best) - y
    scale = max(1.5 * np.median(np.abs(residual)), 1e-6)  # of residuals that are no outliers
    best = problem.solve(y, [best], scale)
    residual = problem.log_loss(best) - y

    spare = n - (needed - 1)
    many = [of - of.mean() for of in logs if len(of) > 1]
    deviations = np.concatenate([d * np.sqrt(len(d) / (len(d) - 1)) for d in many]) if many else np.zeros(1)
    between = max(np.sum(residual**2) / spare - np.mean(np.var(deviations) / n_seeds), 0.0)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_draws):
        from_seeds = np.array([rng.choice(deviations, m).mean() for m in n_seeds])
        spread = np.sqrt(between * spare / rng.chisquare(spare))
        drawn = problem.log_loss(best) + from_seeds + spread * rng.standard_normal(n)
        draws.append(problem.law(problem.solve(drawn, [best], max(scale, spread))))
    return Fit(problem.law(best), draws, x, np.exp(y))


class _Problem:
    """Log residuals of the parameters log E, log of each term at the points' middle, log exponents."""

    def __init__(self, log_x: np.ndarray, offset: bool):
        self.middle = log_x.mean(0)
        self.u, self.offset = log_x - self.middle, int(offset)
        self.k = log_x.shape[1]

    def terms(self, theta: np.ndarray) -> np.ndarray:
        """Logarithms of all terms at all points `[n, offset + k]`."""
        heights, exponents = theta[: -self.k], np.exp(theta[-self.k :])
        slopes = np.concatenate([np.zeros((len(self.u), self.offset)), -exponents * self.u], axis=1)
        return heights + slopes

    def log_loss(self, theta: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(self.terms(theta), axis=1)

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        terms = self.terms(theta)
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=1, keepdims=True))
        return np.concatenate([shares, shares[:, self.offset :] * -np.exp(theta[-self.k :]) * self.u], axis=1)

    def starts(self, y: np.ndarray) -> list[np.ndarray]:
        grid = itertools.product(STARTS["offset"] if self.offset else (0.0,), *[STARTS["exponent"]] * self.k)
        found = []
        for share, *exponents in grid:
            smallest = np.exp(y.min())
            height = np.log(max(np.exp(y.mean()) - share * smallest, 1e-3 * smallest) / self.k)
            head = [np.log(share * smallest)] if self.offset else []
            found.append(np.array([*head, *[height] * self.k, *np.log(exponents)]))
        return found

    def solve(self, y: np.ndarray, starts: Sequence[np.ndarray], scale: float) -> np.ndarray:
        n_heights = self.offset + self.k
        low = np.concatenate([np.full(n_heights, y.min() - 14), np.full(self.k, np.log(LOWEST))])
        high = np.concatenate([np.full(n_heights, y.max() + 3), np.full(self.k, np.log(HIGHEST))])
        found = [
            least_squares(
                lambda theta: self.log_loss(theta) - y,
                np.clip(start, low + 1e-6, high - 1e-6),
                self.jacobian,
                bounds=(low, high),
                loss="soft_l1",
                f_scale=scale,
            )
            for start in starts
        ]
        return min(found, key=lambda result: result.cost).x

    def law(self, theta: np.ndarray) -> Law:
        exponents = np.exp(theta[-self.k :])
        heights = np.exp(theta[: -self.k])
        amplitudes = heights[self.offset :] * np.exp(exponents * self.middle)
        return Law(float(heights[0]) if self.offset else 0.0, amplitudes, exponents)


def optimum(law: Law, budget: float, cost: float) -> tuple[float, float]:
    """N and D of the lowest loss at budget = cost N D (6 N D of dense transformers and tokens), eq. 4 of the paper."""
    (big_a, big_b), (a, b) = law.amplitudes, law.exponents
    g = (a * big_a / (b * big_b)) ** (1 / (a + b))
    n = g * (budget / cost) ** (b / (a + b))
    return float(n), float(budget / cost / n)


def frontier(flop: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Which points have the lowest loss that any has at its number of operations or fewer, in order of these."""
    order = np.lexsort((loss, flop))
    falling = np.asarray(loss, float)[order]
    return order[np.r_[True, falling[1:] < np.minimum.accumulate(falling)[:-1]]]
