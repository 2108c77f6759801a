import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import wasserstein_distance

from equiscale.data.molecules import Molecules, from_records
from equiscale.studies import generation_metrics as metrics
from equiscale.studies.molecule_statistics import PROPERTIES, is_stable, statistics
from tests.studies.generated import Chem, garbage, hand

# --- statistics and shares -------------------------------------------------------------------------------------------


def test_water_is_counted_by_hand():
    water = from_records([("O", [8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]])], "here")
    counted = statistics(water)
    assert counted.n_atoms.tolist() == counted.n_stable.tolist() == [3] and counted.n_fragments.tolist() == [1]
    assert counted.smiles == ("O",) and counted.bonds.tolist() == [[1, 2, 0, 0]]
    assert counted.elements[0, [1, 8]].tolist() == [2, 1] and counted.elements.sum() == 3
    assert sorted(zip(counted.valences.kind, counted.valences.value, strict=True)) == [(1, 1), (1, 1), (8, 2)]
    np.testing.assert_allclose(counted.lengths.value, [0.96, 0.96], rtol=1e-6)
    assert counted.angles.kind.tolist() == [8]
    np.testing.assert_allclose(counted.angles.value, [90])
    assert counted.properties["heavy_atoms"] == 1
    assert counted.properties["molecular_weight"] == pytest.approx(18.015, abs=1e-3)


def test_real_molecules_are_valid_stable_and_known(real, molecules):
    for share in metrics.SHARES.values():
        assert share(real) == 1
    assert real.smiles == tuple(Chem.CanonSmiles(name) for name in molecules.names)
    assert metrics.uniqueness(real) == 0.5
    assert metrics.novelty(real, set(real.smiles)) == 0
    assert metrics.novelty(real, set(real.smiles[:3])) == 0.75
    aniline = real.smiles.index("CC(=O)Nc1ccccc1")
    expected = {"heavy_atoms": 10, "rings": 1, "h_donors": 1, "tpsa": 29.1, "molecular_weight": 135.17}
    for name, value in expected.items():
        assert real.properties[name][aniline] == pytest.approx(value, abs=0.01)


def test_garbage_is_bad():
    random = statistics(garbage())
    assert metrics.validity(random) < 0.3 and metrics.molecule_stability(random) == 0
    assert metrics.atom_stability(random) < 0.7 and metrics.connected(random) < 0.5


def test_stable_valences_are_the_published():
    assert is_stable(6, 0, 4) and is_stable(6, 0, 3) and not is_stable(6, 0, 5) and not is_stable(6, 0, 2)
    assert is_stable(7, 1, 4) and not is_stable(7, 0, 4) and is_stable(8, -1, 1) and not is_stable(8, 0, 1)
    assert is_stable(16, 0, 6) and not is_stable(16, 0, 4) and is_stable(5, -1, 3) and not is_stable(11, 0, 1)


def test_shares_by_hand():
    four = hand(
        n_atoms=np.array([2, 3, 5, 0]), n_stable=np.array([2, 2, 4, 0]), n_fragments=np.array([1, 2, 1, 0])
    )  # fmt: skip
    assert metrics.validity(four) == 0.75 and metrics.connected(four) == 0.5
    assert metrics.molecule_stability(four) == 0.25 and metrics.atom_stability(four) == 0.8
    assert metrics.uniqueness(four) == pytest.approx(2 / 3) and metrics.novelty(four, {"C"}) == 0.5
    weights = np.array([[1, 1, 1, 1], [2, 1, 0, 1], [0, 0, 0, 4]])
    np.testing.assert_allclose(metrics.atom_stability(four, weights), [0.8, 6 / 7, np.nan])
    np.testing.assert_allclose(metrics.validity(four, weights), [0.75, 0.75, 0])


# --- distances -------------------------------------------------------------------------------------------------------


def test_type_distances_by_hand():
    ours = hand(("C", "C"), [{6: 2, 1: 2}, {6: 4}], [[0, 1, 1, 0], [2, 2, 0, 0]])
    theirs = hand(("C",), [{6: 1, 8: 1}], [[1, 1, 0, 0]])
    # C 3/4, H 1/4 against C 1/2, O 1/2; none 2/6, single 3/6, double 1/6 against 1/2, 1/2.
    assert metrics.midi_atom_tv(ours, theirs) == pytest.approx(1.0) and metrics.atom_tv(ours, theirs) == 0.5
    assert metrics.midi_bond_tv(ours, theirs) == pytest.approx(1 / 3)
    assert metrics.bond_tv(ours, theirs) == pytest.approx(1 / 6)
    assert metrics.midi_atom_tv(ours, theirs, np.array([0.0, 1.0])) == pytest.approx(1.0)


def test_valency_w1_by_hand():
    ours = hand(("C", "C"), [{6: 2}, {7: 2}], valences=[(0, 6, 4), (0, 6, 3), (1, 7, 3), (1, 7, 5)])
    theirs = hand(("C",), [{6: 3, 7: 1, 8: 4}], valences=[(0, 6, 4), (0, 6, 4), (0, 6, 4), (0, 7, 3), (0, 8, 2)])
    # C: half the atoms move by 1; N: half by 2; O is in the reference alone and left out: weights 3/8 and 1/8.
    assert metrics.valency_w1(ours, theirs) == pytest.approx((3 * 0.5 + 1 * 1.0) / 4)
    np.testing.assert_allclose(
        metrics.valency_w1(ours, theirs, np.array([[1, 1], [1, 0], [0, 0]])), [0.625, 0.5, np.nan]
    )


def test_bond_lengths_by_hand():
    """Single bonds 0.1 too long, doubles as they should be; of all pairs 30 have no bond, 6 a single, 4 a double."""
    ours = hand(("C", "C"), lengths=[(0, 1, 1.6), (0, 1, 1.5), (1, 2, 1.2)])
    theirs = hand(("C",), bonds=[[30, 6, 4, 0]], lengths=[(0, 1, 1.5), (0, 1, 1.4), (0, 2, 1.2)])
    assert metrics.bond_length_w1(ours, theirs) == pytest.approx(0.6 * 0.1)
    assert metrics.midi_bond_length_w1(ours, theirs) == pytest.approx(0.15 * 0.1)
    # Without the double bond MiDi's histogram is empty: its distance is the reference's own, to the last bin, 1.6.
    assert metrics.midi_bond_length_w1(ours, theirs, np.array([1, 0])) == pytest.approx(0.15 * 0.1 + 0.1 * 0.41)
    assert metrics.bond_length_w1(ours, theirs, np.array([1, 0])) == pytest.approx(0.1)


def test_bond_angles_by_hand():
    sparse = [[80, 20, 0, 0]]
    ours = hand(("C",), bonds=sparse, angles=[(0, 6, 109.5), (0, 6, 110.5), (0, 7, 120)])
    valences = [(0, 6, 4), (0, 6, 4), (0, 7, 3), (0, 7, 1), (0, 1, 1)]
    theirs = hand(("C",), [{6: 2, 7: 2, 1: 4}], angles=[(0, 6, 109.5), (0, 7, 117)], valences=valences)
    # Weights: C 1/4 x 1, N 1/4 x 1/2, H 1/2 x 0.
    assert metrics.bond_angle_w1(ours, theirs) == pytest.approx((0.25 * 0.5 + 0.125 * 3) / 0.375)
    assert metrics.midi_bond_angle_w1(ours, theirs) == pytest.approx((0.25 * 0.5 + 0.125 * 3) / 0.375, rel=1e-4)
    dense = hand(("C",), bonds=[[69, 31, 0, 0]], angles=[(0, 6, 100)])
    assert metrics.midi_bond_angle_w1(dense, theirs) == 0 and metrics.bond_angle_w1(dense, theirs) == 9.5


def test_wasserstein_is_scipys():
    rng = np.random.default_rng(0)
    for ties in (False, True):
        a, b = rng.normal(size=50), rng.normal(0.3, 2, 70)
        if ties:
            a, b = a.round(), b.round()
        assert metrics.wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b))
        weights = rng.integers(0, 4, (3, 50))
        expected = [wasserstein_distance(a, b, row) for row in weights]
        np.testing.assert_allclose(metrics.wasserstein(a, b, weights), expected)
    assert math.isnan(metrics.wasserstein(np.zeros(0), b)) and math.isnan(metrics.wasserstein(a, b, np.zeros(50)))


def test_weights_repeat_molecules(molecules, real):
    """A metric with weights is the metric of a set in which molecules come as often."""
    reference = statistics(garbage())
    rows = [0, 0, 3, 5, 5, 5, 7]
    weights = np.bincount(rows, minlength=len(real))
    repeated = statistics(molecules.subset(rows))
    for name, metric in metrics.SHARES.items():
        assert metric(real, weights) == pytest.approx(float(metric(repeated))), name
    for name, metric in metrics.DISTANCES.items():
        both = metric(real, reference, np.stack([weights, np.ones(len(real))]))
        np.testing.assert_allclose(both, [metric(repeated, reference), metric(real, reference)], err_msg=name)
        assert metric(real, reference) > 0, name


def test_the_same_molecules_are_at_no_distance_and_turning_changes_nothing(molecules, real):
    turns = Rotation.random(len(molecules), rng=np.random.default_rng(0)).as_matrix()
    turned = np.einsum("nij,naj->nai", turns, molecules.positions).astype(np.float32)
    rotated = statistics(Molecules(turned, molecules.species, molecules.names, "turned"))
    assert rotated.smiles == real.smiles
    for share in metrics.SHARES.values():
        assert share(rotated) == share(real)
    for name, metric in metrics.DISTANCES.items():
        assert metric(real, real) == pytest.approx(0, abs=1e-12), name
        assert metric(rotated, real) < (2e-3 if "angle" in name else 2e-5), name
    for name in PROPERTIES:
        np.testing.assert_array_equal(rotated.properties[name], real.properties[name])
