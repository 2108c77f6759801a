import math

import numpy as np
import pytest
from scipy.stats import energy_distance, ks_2samp

from equiscale.studies import property_divergence as P


def test_kl_is_the_closed_form():
    assert P.kl_divergence([3, 1], [1, 3], smoothing=0) == pytest.approx(0.5 * math.log(3))
    assert P.kl_divergence([2, 0], [1, 1], smoothing=0) == pytest.approx(math.log(2))
    assert P.kl_divergence([1, 1], [2, 0], smoothing=0) == math.inf
    # One added to each: (3, 1) / 4 against (2, 2) / 4, then the other way.
    assert P.kl_divergence([2, 0], [1, 1]) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert P.kl_divergence([1, 1], [2, 0]) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert P.kl_divergence([5, 7, 2], [5, 7, 2]) == 0 and math.isnan(P.kl_divergence([0, 0], [1, 1]))
    np.testing.assert_allclose(P.kl_divergence([[3, 1], [1, 3]], [[1, 3], [1, 3]], 0), [0.5 * math.log(3), 0])


def test_distances_without_bins_are_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=80).round(1), rng.normal(0.5, 1.5, 60).round(1)
    (record,) = P.kl({"x": a}, {"x": b}, rng, edges={"x": np.arange(-3, 3.1)}).values()
    assert record["n_a"] == 80 and record["n_b"] == 60
    assert record["ks"]["value"] == pytest.approx(ks_2samp(a, b).statistic)
    largest = math.sqrt(2 * np.abs(a[:, None] - b).mean())
    assert record["energy"]["value"] == pytest.approx(energy_distance(a, b) / largest)
    edges = [-np.inf, *np.arange(-3, 3.1), np.inf]
    histograms = [np.histogram(of, edges)[0] for of in (a, b)]
    assert record["kl_ab"]["value"] == pytest.approx(float(P.kl_divergence(*histograms)))
    assert record["kl_ba"]["value"] == pytest.approx(float(P.kl_divergence(*histograms[::-1])))


def test_the_floor_is_what_one_distribution_reads_and_a_shift_is_above_it():
    rng = np.random.default_rng(2)
    edges = {"x": np.linspace(-2, 2, 10)}
    readings, p_values, floors = [], [], []
    for _ in range(60):
        a, b = rng.normal(size=(2, 150))
        record = P.kl({"x": a}, {"x": b}, rng, edges=edges)["x"]
        readings.append(record["kl_ab"]["value"])
        floors.append(record["kl_ab"]["floor"])
        p_values.append([record[name]["p_value"] for name in P.MEASURES])
    assert np.mean(floors) == pytest.approx(np.mean(readings), rel=0.15)
    below = (np.array(p_values) < 0.1).mean(0)  # 10 % of the time, with a standard error of 4 %
    assert (below < 0.25).all()
    shifted = P.kl({"x": rng.normal(size=500)}, {"x": rng.normal(0.6, 1, 500)}, rng, edges=edges)["x"]
    for name in P.MEASURES:
        assert shifted[name]["value"] > shifted[name]["floor_high"] and shifted[name]["p_value"] < 0.02
        assert shifted[name]["low"] > 0


def test_intervals_cover():
    """95 % intervals of a divergence, taken off its bias, hold the truth about as often."""
    rng = np.random.default_rng(3)
    p, q = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, 0.3, 0.2, 0.2])
    truth, edges = float(p @ np.log(p / q)), {"x": np.arange(0.5, 3)}
    inside = 0
    for _ in range(100):
        a, b = (rng.choice(4, 300, p=of).astype(float) for of in (p, q))
        of_x = P.kl({"x": a}, {"x": b}, rng, edges=edges)["x"]["kl_ab"]
        inside += of_x["low"] <= truth <= of_x["high"]
    assert 88 <= inside <= 100


def test_groups_widen_intervals_and_floors():
    """Ten molecules a seed that are all alike are no more than one: intervals and p-values know if told."""
    rng = np.random.default_rng(4)
    edges, groups = {"x": np.linspace(-2, 2, 8)}, np.repeat(np.arange(40), 10)
    rejected = {"alone": 0, "grouped": 0}
    for _ in range(20):
        a, b = np.repeat(rng.normal(size=(2, 40)), 10, axis=1)
        alone = P.kl({"x": a}, {"x": b}, rng, edges=edges)["x"]["ks"]
        grouped = P.kl({"x": a}, {"x": b}, rng, edges=edges, groups=(groups, groups))["x"]["ks"]
        assert grouped["standard_error"] > 1.5 * alone["standard_error"]
        rejected["alone"] += alone["p_value"] < 0.05
        rejected["grouped"] += grouped["p_value"] < 0.05
    assert rejected["alone"] > 10 and rejected["grouped"] <= 4
    with pytest.raises(ValueError, match="name one each"):
        P.kl({"x": a}, {"x": b}, rng, edges=edges, groups=(groups[1:], groups))


def test_values_that_are_not_there_are_left_out_and_counted():
    rng = np.random.default_rng(5)
    a, b, edges = rng.normal(size=50), rng.normal(size=50), {"x": np.linspace(-2, 2, 8)}
    with_gaps = np.concatenate([a, np.full(30, np.nan)])
    record = P.kl({"x": with_gaps}, {"x": b}, rng, edges=edges)["x"]
    assert record["n_a"] == 50
    for name in P.MEASURES:
        assert record[name]["value"] == P.kl({"x": a}, {"x": b}, rng, edges=edges)["x"][name]["value"]
    none = P.kl({"x": with_gaps[50:]}, {"x": b}, rng, edges=edges)["x"]
    assert none["n_a"] == 0 and all(math.isnan(number) for name in P.MEASURES for number in none[name].values())


def test_identical_properties_are_at_no_distance():
    of = {name: np.random.default_rng(6).integers(0, 30, 40).astype(float) for name in P.EDGES}
    for record in P.kl(of, of, np.random.default_rng(0)).values():
        for name in P.MEASURES:
            assert record[name]["value"] == 0 and record[name]["p_value"] == 1


def test_a_summary_keeps_within_its_bounds_and_takes_off_bias():
    drawn = np.linspace(0.3, 0.5, 201)  # a value of 0.2 that resampling raises by 0.2
    of = P.summary(0.2, drawn)
    assert of["low"] == 0 and of["high"] == pytest.approx(0.4 - 0.305)
    assert P.summary(-0.2, -drawn, least=-1)["high"] == pytest.approx(-0.4 + 0.495)
    assert all(math.isnan(P.summary(math.nan, drawn)[name]) for name in ("value", "low", "high", "standard_error"))
