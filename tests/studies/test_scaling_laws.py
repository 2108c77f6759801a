"""Laws are found again from what they make, intervals cover them, and what is not determined is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from equiscale.studies.scaling_laws import Law, fit, frontier, n_needed, optimum

OFFSET = Law(0.2, np.array([3.0]), np.array([0.3]))
PLAIN = Law(0.0, np.array([3.0]), np.array([0.3]))
BOTH = Law(0.5, np.array([30.0, 8.0]), np.array([0.4, 0.25]))
GRID = np.array([(n, d) for n in np.geomspace(1e3, 1e6, 4) for d in np.geomspace(1e2, 1e5, 4)])
LINE = np.geomspace(1e2, 1e6, 6)[:, None]


@pytest.mark.parametrize("law, x", [(OFFSET, LINE), (PLAIN, LINE), (BOTH, GRID)])
def test_a_law_is_found_again(law, x):
    found = fit(x, law.loss(x)[:, None], offset=law.offset > 0, n_draws=2).law
    np.testing.assert_allclose(found.numbers, law.numbers, rtol=1e-3)


def test_one_run_that_failed_does_not_decide():
    loss = PLAIN.loss(LINE) * np.exp(0.01 * np.array([1, -1, 1, -1, 1, -1]))
    loss[4] *= 3
    robust = fit(LINE, loss[:, None], offset=False, n_draws=2).law.exponents[0]
    squares = -np.polyfit(np.log(LINE[:, 0]), np.log(loss), 1)[0]
    assert abs(robust - 0.3) < 0.5 * abs(squares - 0.3)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.1, 1), st.floats(0.1, 1), st.floats(0, 3), st.floats(0, 3), st.floats(6, 20))
def test_the_optimum_is_that_of_a_search(a, b, log_a, log_b, log_budget):
    law, cost, budget = Law(0.1, 10.0 ** np.array([log_a, log_b]), np.array([a, b])), 6.0, 10.0**log_budget
    n, d = optimum(law, budget, cost)
    assert cost * n * d == pytest.approx(budget)

    def loss(log_n):
        return law.loss(np.exp([log_n, np.log(budget / cost) - log_n])) - law.offset

    best = minimize_scalar(loss, bounds=(np.log(n) - 5, np.log(n) + 5), method="bounded", options={"xatol": 1e-9})
    assert loss(np.log(n)) <= best.fun * (1 + 1e-9)


def test_the_frontier_falls_and_nothing_is_below_it():
    rng = np.random.default_rng(0)
    flop, loss = rng.permutation(np.r_[np.arange(1.0, 60), 7.0]), rng.random(60)
    best = frontier(flop, loss)
    x, y = flop[best], loss[best]
    assert (np.diff(x) > 0).all() and (np.diff(y) < 0).all()
    assert all(y[np.searchsorted(x, f, side="right") - 1] <= value for f, value in zip(flop, loss, strict=True))


def test_too_few_points_are_counted():
    with pytest.raises(ValueError, match="3 points: a law of 3 parameters needs at least 4"):
        fit(LINE[:3], np.ones((3, 1)), offset=True)
    with pytest.raises(ValueError, match="5 points: a law of 5 parameters needs at least 6"):
        fit(GRID[:5], np.ones((5, 1)), offset=True)
    with pytest.raises(ValueError, match="a variable with 2 different values: an exponent needs at least 3"):
        fit(GRID[:8], np.ones((8, 1)), offset=True)
    with pytest.raises(ValueError, match="must be positive"):
        fit(LINE, [[1.0, 0.0]] * 6, offset=False)
    assert n_needed(1, False) == 3 and n_needed(2, True) == 6


def test_what_data_do_not_tell_is_said():
    noise = np.exp(0.05 * np.random.default_rng(0).standard_normal((6, 2)))
    steep = fit(LINE, PLAIN.loss(LINE)[:, None] * noise, offset=True, n_draws=40)
    assert "the offset is not determined: its interval reaches 0" in steep.undetermined(["frames"])
    narrow = np.linspace(1.0, 1.3, 6)[:, None]
    flat = fit(narrow, noise, offset=True, n_draws=40).undetermined(["frames"])
    assert "the exponent of frames is not determined" in flat
    clear = fit(LINE, OFFSET.loss(LINE)[:, None] * noise**0.02, offset=True, n_draws=40)
    assert clear.undetermined(["frames"]) == "" and clear.interval()[0, 0] < 0.2 < clear.interval()[1, 0]
    reached = Law(0.05, np.array([17.0]), np.array([1.4]))
    enough = np.array([18, 36, 72, 216, 719, 2157.0])[:, None]
    end = fit(enough, reached.loss(enough)[:, None] * noise, offset=True, n_draws=40)
    assert end.undetermined(["frames"]) == "" and end.saturated and not clear.saturated
    assert end.interval()[0, 0] < 0.05 < end.interval()[1, 0] and end.interval()[0, 2] < 1.4 < end.interval()[1, 2]
    power = fit(LINE, PLAIN.loss(LINE)[:, None] * noise, offset=False, n_draws=40)
    assert power.undetermined(["frames"]) == "" and (power.interval()[:, 0] == 0).all()


def coverage(law, x, n_seeds, between, within, n_simulations, n_draws, level):
    """How often intervals hold the numbers of a law that arms and seeds differ from by normal log errors."""
    rng = np.random.default_rng(1)
    hits = []
    for i in range(n_simulations):
        arms = np.log(law.loss(x)) + between * rng.standard_normal(len(x))
        losses = np.exp(arms[:, None] + within * rng.standard_normal((len(x), n_seeds)))
        low, high = fit(x, losses, offset=law.offset > 0, n_draws=n_draws, seed=i).interval(level)
        hits.append((low <= law.numbers) & (law.numbers <= high))
    return np.mean(hits, 0)[-x.shape[1] :]


def test_intervals_cover():
    """80 % intervals of 40 laws hold the exponent as often as a binomial of that rate, within its 99.9 % range."""
    assert 23 <= 40 * coverage(PLAIN, LINE[::2], 2, 0.02, 0.03, 40, 20, 0.8)[0] <= 39


@pytest.mark.slow  # some minutes: 100 simulations of 120 draws each
@pytest.mark.parametrize("law, x", [(PLAIN, LINE[:4]), (OFFSET, LINE), (BOTH, GRID)])
@pytest.mark.parametrize("n_seeds, between, within", [(1, 0.02, 0.0), (2, 0.0, 0.03), (3, 0.02, 0.03)])
def test_intervals_cover_at_length(law, x, n_seeds, between, within):
    covered = coverage(law, x, n_seeds, between, within, 100, 120, 0.95)
    assert (covered >= 0.87).all(), covered
