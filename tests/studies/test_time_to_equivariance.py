"""Steps until percent is below a level: medians over seeds, of which some may not get there."""

import csv

import numpy as np
import pytest

from equiscale.studies.crossings import NEVER
from equiscale.studies.time_to_equivariance import section, time_to


def curve(scale, stderr=0.0, steps=(1, 10, 100, 1000), floor=1e-9):
    """Percent = scale / step."""
    return [
        {"step": s, "percent": scale / s, "percent_stderr": stderr * scale / s, "floor": floor} for s in steps
    ]  # fmt: skip


def test_the_median_of_seeds_that_got_there():
    found = time_to([curve(20), curve(45), curve(80)], 1.0)
    assert found.step.value == pytest.approx(45) and (found.reached, found.n_seeds, found.last) == (3, 3, 1000)
    assert found.step.low == pytest.approx(20) and found.step.high == pytest.approx(80)
    assert time_to([curve(20), curve(45)], 1.0).step.value == pytest.approx(30)
    assert str(found) == "45 (20 to 80)"


def test_seeds_that_ended_before_count_as_later():
    found = time_to([curve(20), curve(45), curve(5000)], 1.0)
    assert found.step.value == pytest.approx(45) and found.step.high == NEVER
    assert str(found) == "45 (20 to beyond 1000)"
    half = time_to([curve(20), curve(5000)], 1.0)
    assert half.step.value == NEVER and str(half) == "not by step 1000 (from 20 on; 1 of 2 seeds)"
    assert str(time_to([curve(5000)] * 2, 1.0)) == "not by step 1000"


def test_errors_of_examples_move_all_seeds_together():
    """With an error of 10 % of percent = c / step the time is off by as much, however many seeds share the examples."""
    for n in (1, 6):
        low, high = time_to([curve(50, stderr=0.1)] * n, 1.0).step[1:]
        assert low == pytest.approx(50 * np.exp(-0.196), rel=0.03) and high == pytest.approx(
            50 * np.exp(0.196), rel=0.03
        )


def test_exact_networks_are_equivariant_from_the_start(tmp_path):
    exact = [{"step": s, "percent": -1e-12, "percent_stderr": 1e-12, "floor": 1e-9} for s in (0, 10)]
    heading, body = section(tmp_path, {"exact": [exact], "plain": [curve(50)]})
    assert "learned" in heading and body.count("from the start") == 2 and "50 (50 to 50)" in body
    with (tmp_path / "time_to_equivariance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["arm"], r["percent"]) for r in rows][2:] == [("plain", "1.0"), ("plain", "0.1")]
    assert float(rows[3]["step"]) == pytest.approx(500) and rows[0]["step"] == "0.0"
