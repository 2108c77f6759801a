"""Energy distances against their definition, and what they see of distributions that are invariant and that are not."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from equiscale.studies.sample_invariance import energy_distance, invariance, orientation


def rods(m, seed, turned):
    """Noisy rods along x, or each turned at random."""
    rng = np.random.default_rng(seed)
    x = np.zeros((m, 6, 3))
    x[..., 0] = np.arange(6)
    x += rng.normal(0, 0.2, x.shape)
    return np.einsum("mij,mnj->mni", Rotation.random(m, rng=rng).as_matrix(), x) if turned else x


def test_it_is_the_difference_of_mean_distances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 2)), 1 + rng.normal(size=(7, 2))

    def mean(x, y, skip):
        return np.mean(
            [np.linalg.norm(p - q) for i, p in enumerate(x) for j, q in enumerate(y) if not (skip and i == j)]
        )

    both = np.concatenate([a, b])
    expected = (2 * mean(a, b, False) - mean(a, a, True) - mean(b, b, True)) / mean(a, b, False)
    assert energy_distance(cdist(both, both), 5) == pytest.approx(expected)


def test_turned_rods_are_invariant_and_others_are_not():
    for name, row in invariance(rods(60, 0, True)).items():
        assert row["p_value"] > 0.05 and abs(row["distance"]) < 0.1, name
    for name, row in invariance(rods(60, 1, False)).items():
        assert row["p_value"] == 1 / 500 and row["distance"] > 0.2, name
        assert row["control_p_value"] > 0.05 and abs(row["control"]) < 0.1, name


def test_p_values_of_invariant_samples_are_uniform():
    found = np.array([invariance(rods(16, seed, True), seed)["orientation"]["p_value"] for seed in range(40)])
    assert 0.3 < found.mean() < 0.7 and (found < 0.1).mean() < 0.3


def test_orientation_turns_and_does_not_see_size():
    x = rods(4, 0, True)
    np.testing.assert_allclose(orientation(3 * x), orientation(x), atol=1e-12)
    with pytest.raises(ValueError, match="7 samples: give at least 8"):
        invariance(x.repeat(2, 0)[:7])
