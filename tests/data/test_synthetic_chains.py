import numpy as np
import pytest
from scipy.spatial.distance import pdist

from equiscale.data import chain_geometry as G
from equiscale.data.synthetic_chains import synthetic_chains


@pytest.fixture(scope="module")
def chains():
    return synthetic_chains(150, 64)


def test_a_chain_depends_on_seed_and_index_alone(chains):
    some = synthetic_chains(3, 64, first=130)
    np.testing.assert_array_equal(some.positions, chains.positions[130:133])
    assert some.names == chains.names[130:133] == ("synthetic 130", "synthetic 131", "synthetic 132")
    assert not np.array_equal(synthetic_chains(1, 64, seed=1).positions, chains.positions[:1])


def test_chains_do_not_overlap_themselves(chains):
    for positions in chains.positions:
        assert pdist(positions).min() > 0.36
        distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        assert distances.min() > 0.36 and distances.max() < 0.40


def test_statistics_are_near_those_of_real_chains(chains):
    """Bounds on both sides; `test_chain_geometry` holds the numbers of real chains against published files."""
    found = G.statistics(chains)
    margins = {
        "distance_mean": 0.001,
        "distance_median": 0.001,
        "distance_sd": 0.003,  # real ones include cis peptides, 0.29 nm
        "distance_min": 0.11,
        "distance_max": 0.04,
        "clashes": 0,
        "gyration_ratio": 0.08,  # 1.06 in real chains of this length
        "helix": 0.08,
        "strand": 0.08,
        "right_handed": 0.04,
        "left_handed": 0.01,
    }
    assert margins.keys() == G.REAL.keys()
    for name, margin in margins.items():
        assert abs(found[name] - G.REAL[name]) <= margin, (name, found[name], G.REAL[name])


def test_longer_chains_grow_as_proteins_do():
    (positions,) = synthetic_chains(1, 200).positions
    assert 0.9 < G.radius_of_gyration(positions) / (0.22 * 200**0.38) < 1.2


def test_it_says_that_it_is_synthetic(chains):
    assert "synthetic" in repr(chains) and "not real proteins" in chains.source and not any(chains.sequences)
    assert len(set(chains.clusters)) == 150 and not chains.breaks.any()
    np.testing.assert_allclose(chains.positions.mean(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("settings", [{"n": 0}, {"n_residues": 3}, {"seed": -1}, {"first": -1}])
def test_numbers_out_of_range_are_named(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        synthetic_chains(**{"n": 1, "n_residues": 8} | settings)
