"""Power laws are met exactly between their points, and nothing is said beyond them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.studies.crossings import NEVER, Interval, first_reached, value_at

X = np.array([1.0, 3.0, 10.0, 100.0])


@given(st.floats(0.1, 2), st.floats(1, 100))
def test_a_power_law_is_met_where_it_is(a, at):
    y = 5 * X**-a
    assert value_at(X, y, at) == pytest.approx(5 * at**-a)
    assert first_reached(X, y, 5 * at**-a) == pytest.approx(at)


def test_nothing_is_said_beyond_a_curve():
    assert first_reached(X, 5 / X, 0.04) == NEVER
    assert first_reached(X, 5 / X, 6.0) == 1.0
    for outside in (0.5, 200.0):
        with pytest.raises(ValueError, match="outside of the curve, which goes from 1 to 100"):
            value_at(X, 5 / X, outside)


def test_the_first_of_several_crossings_counts_and_step_0_has_no_logarithm():
    assert first_reached(X, np.array([8.0, 2.0, 8.0, 1.0]), 4.0) == pytest.approx(np.sqrt(3))
    assert first_reached(np.array([0.0, 10.0]), np.array([8.0, 2.0]), 4.0) == pytest.approx(5.0)


def test_ends_of_intervals_may_be_never():
    draws = np.r_[np.full(90, 7.0), np.full(10, NEVER)]
    assert Interval.of(7.0, draws) == (7.0, 7.0, NEVER)
