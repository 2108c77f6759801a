from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equiscale.data import chain_geometry as G
from equiscale.data.chain_readers import read_chains
from equiscale.data.chains import ChainRecord, Limits, from_records, unbroken_chains
from equiscale.data.superposition import turns
from equiscale.data.synthetic_chains import synthetic_chains
from equiscale.data.tm_score import diversity, nearest, tm_scale, tm_score

DATA = Path(__file__).parents[3] / "shared/data/protein/protein_ca.npz"
MIRROR = np.array([1, 1, -1])


def helix(n, radius=0.23, rise=0.15, turn=100):
    """C-alpha of the alpha helix of textbooks: 1.5 angstrom and 100 degrees a residue, right-handed."""
    phase = np.radians(turn) * np.arange(n)
    return np.stack([radius * np.cos(phase), radius * np.sin(phase), rise * np.arange(n)], axis=1)


def strand(n):
    """A twisted pleat: 3.3 angstrom and 190 degrees a residue, the left-handed twist of sheets."""
    return helix(n, radius=0.095, rise=0.33, turn=195)


def test_a_helix_has_the_angles_of_its_closed_form():
    positions, turn = helix(12), np.radians(100)
    bond = np.sqrt((2 * 0.23 * np.sin(turn / 2)) ** 2 + 0.15**2)
    np.testing.assert_allclose(G.neighbour_distances(positions), bond)
    second = np.sqrt((2 * 0.23 * np.sin(turn)) ** 2 + 0.30**2)
    np.testing.assert_allclose(G.pseudo_angles(positions), np.degrees(2 * np.arcsin(second / bond / 2)))
    dihedrals = G.pseudo_dihedrals(positions)
    assert len(dihedrals) == 9 and np.ptp(dihedrals) < 1e-9 and 45 < dihedrals[0] < 55
    np.testing.assert_allclose(G.pseudo_dihedrals(positions * MIRROR), -dihedrals)
    assert G.handedness(dihedrals) == (1, 0) and G.handedness(-dihedrals) == (0, 1)


@pytest.mark.parametrize("degrees", [-179, -90, 0, 60, 180])
def test_a_dihedral_is_what_it_was_built_with(degrees):
    angle = np.radians(degrees)
    last = [1, np.cos(angle), np.sin(angle)]
    positions = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], last], float)
    np.testing.assert_allclose(G.pseudo_dihedrals(positions), [degrees], atol=1e-9)
    np.testing.assert_allclose(G.pseudo_angles(positions), [90, 90])


def test_secondary_structure_of_ideal_elements():
    in_helix, in_strand = G.secondary_structure(helix(20))
    assert in_helix[1:17].all() and not in_strand.any()
    in_helix, in_strand = G.secondary_structure(strand(12))
    assert in_strand[1:9].all() and not in_helix.any()
    mirrored, _ = G.secondary_structure(helix(20) * MIRROR)
    assert mirrored.any(), "P-SEA's distances are met by a left-handed helix too, so handedness is told apart"
    line = np.arange(20)[:, None] * np.array([[0.38, 0, 0]])
    assert not np.any(G.secondary_structure(line))
    # Larger by 15 % no distance fits any more, and the angles, which do, tell right from left.
    assert G.secondary_structure(1.15 * helix(20))[0][1:17].all() and G.secondary_structure(1.15 * strand(12))[1].any()
    assert not np.any(G.secondary_structure(1.15 * helix(20) * MIRROR))
    for n in (1, 2, 3, 4):
        assert [len(flags) for flags in G.secondary_structure(helix(n))] == [n, n]


def test_nothing_is_measured_across_a_gap():
    joined = np.arange(11) != 4
    for measure, k in ((G.neighbour_distances, 1), (G.pseudo_angles, 2), (G.pseudo_dihedrals, 3)):
        found = measure(helix(12), joined)
        assert np.flatnonzero(np.isnan(found)).tolist() == list(range(5 - k, 5))


def test_size_and_clashes():
    cube = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8).T.astype(float)
    assert G.radius_of_gyration(cube + 7) == pytest.approx(np.sqrt(0.75))
    assert G.clashes(0.19 * cube) == 12 and G.clashes(0.2 * cube) == 0
    assert G.clashes(np.zeros((3, 3))) == 0, "residues at one place are one"


def test_statistics_of_known_chains():
    found = G.statistics(unbroken_chains(np.stack([helix(20), helix(20) * MIRROR]), ["r", "l"], "test"))
    assert found.keys() == G.REAL.keys()
    assert found["right_handed"] == found["left_handed"] == 0.5 and found["clashes"] == 0
    assert found["distance_median"] == pytest.approx(0.383, abs=1e-3) and found["distance_sd"] < 1e-6
    gap = ChainRecord("gap", np.concatenate([helix(30), helix(30) + 5]), np.append(np.arange(30), np.arange(40, 70)))
    found = G.statistics(from_records([gap], "test"))
    assert found["distance_sd"] < 1e-6, "the distance across missing residues does not count"
    assert found["right_handed"] == 1


@pytest.mark.skipif(not DATA.exists(), reason="published structures are not part of the project")
def test_statistics_of_real_chains_are_those_written_down():
    chains = from_records(read_chains(DATA), "PDB", Limits(None, None, None, None))
    found = G.statistics(chains)
    for name, value in G.REAL.items():
        assert found[name] == pytest.approx(value, abs=5e-4 if value < 1 else 5e-3), name


def test_superposition_against_scipy():
    rng = np.random.default_rng(0)
    first, second, weights = rng.normal(size=(5, 9, 3)), rng.normal(size=(5, 9, 3)), rng.random((5, 9))
    second[:2] = first[:2] * MIRROR  # a reflection would be exact: the nearest rotation is asked for
    for given in (None, weights):
        for a, b, turn, w in zip(first, second, turns(first, second, given), weights, strict=True):
            expected, _ = Rotation.align_vectors(a, b, None if given is None else w)
            np.testing.assert_allclose(turn.T, expected.as_matrix(), atol=1e-9)
            assert np.linalg.det(turn) == pytest.approx(1)


@pytest.fixture(scope="module")
def folds():
    return synthetic_chains(10, 64).positions.astype(np.float64)


def test_tm_score_of_a_moved_chain_is_one_and_of_its_mirror_image_clearly_less(folds):
    turned = folds @ Rotation.random(10, rng=0).as_matrix() + np.arange(10)[:, None, None]
    np.testing.assert_allclose(tm_score(folds, turned), 1, atol=1e-9)
    assert tm_score(folds, folds * MIRROR).max() < 0.6


def test_tm_score_of_unlike_chains(folds):
    first, second = folds[:5], folds[5:]
    scores = tm_score(first, second)
    assert 0.13 < scores.mean() < 0.25 and scores.max() < 0.4
    np.testing.assert_allclose(tm_score(second, first), scores, atol=1e-6, err_msg="either order")
    parts = np.concatenate([tm_score(first[i : i + 1], second[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(parts, scores, err_msg="one pair does not depend on the others")


def test_tm_score_finds_a_shared_half(folds):
    """Half of the residues alike, the rest elsewhere: at least what the superposition of that half gives."""
    chimera = folds[0].copy()
    chimera[32:] = folds[1][32:] - folds[1][32] + folds[0][31] + [0.38, 0, 0]
    turned = chimera @ Rotation.random(rng=1).as_matrix()
    known = np.mean(1 / (1 + np.sum((chimera - folds[0]) ** 2, axis=1) / tm_scale(64) ** 2))
    assert 1 > tm_score(folds[:1], turned[None])[0] >= known > 0.5


def test_tm_scale_is_the_published_one():
    assert tm_scale(64) == pytest.approx((1.24 * 49 ** (1 / 3) - 1.8) / 10)
    assert tm_scale(21) == tm_scale(5) == 0.05


def test_diversity_and_novelty(folds):
    same = np.stack([folds[0], folds[0] @ Rotation.random(rng=2).as_matrix()])
    assert diversity(same) == pytest.approx(1)
    assert diversity(folds[:4]) == pytest.approx(
        np.mean([tm_score(folds[i : i + 1], folds[j : j + 1])[0] for i in range(4) for j in range(i)])
    )
    scores, which = nearest(same[1:], folds[[3, 0, 2]])
    assert scores[0] == pytest.approx(1) and which.tolist() == [1]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: tm_score(x[:, :60], x), "windows of one length"),
        (lambda x: tm_score(x[:, :3], x[:, :3]), "n at least 4"),
        (lambda x: diversity(x[:1]), "1 chains: give at least 2"),
        (lambda x: nearest(x, x[:0]), "no reference"),
    ],
)
def test_what_cannot_be_compared_is_said(call, message, folds):
    with pytest.raises(ValueError, match=message):
        call(folds)
