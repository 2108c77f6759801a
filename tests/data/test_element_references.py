"""Element references recover what energies are made of, and say where they cannot."""

import numpy as np
import pytest

from equiscale.data.element_references import fit_references, fit_scale, known_references
from equiscale.data.force_frames import from_records
from tests.data.force_records import record, water

TRUE = {1: -13.6, 6: -1030.5, 8: -2043.9}


def compositions(n, seed=0):
    return np.random.default_rng(seed).choice([0, *TRUE], size=(n, 9)).astype(np.int32)


def energies_of(species):
    return np.vectorize(TRUE.get, otypes=[float])(species, 0.0).sum(axis=1)


def test_references_are_those_the_energies_were_made_of():
    species = compositions(30)
    noise = np.random.default_rng(1).normal(scale=1e-3, size=30)
    found = fit_references([(species, energies_of(species) + noise)])
    assert found.elements == (1, 6, 8) and found.rank == 3 and 0 < found.residual < 2e-3
    np.testing.assert_allclose(found.energies[[1, 6, 8]], list(TRUE.values()), atol=2e-3)
    others = compositions(5, seed=2)
    np.testing.assert_allclose(found.total(others), energies_of(others), atol=0.02)


def test_one_composition_tells_no_elements_apart_and_sums_are_right_all_the_same():
    species = np.tile(np.array([[8, 1, 1]], np.int32), (4, 1))
    found = fit_references([(species, energies_of(species))])
    assert found.rank == 1 and "only 1 of 2 told apart" in str(found)
    np.testing.assert_allclose(found.total(species), energies_of(species))


def test_an_element_without_a_reference_is_named():
    with pytest.raises(ValueError, match="no reference energy of S"):
        known_references({"H": -13.6}).total(np.array([[1, 16]]))
    with pytest.raises(ValueError, match="no frame to fit"):
        fit_references([(np.zeros((0, 3), np.int32), np.zeros(0))])


def test_a_scale_standardises_and_leads_back():
    frames = from_records([record(i) for i in range(8)] + [water(i) for i in range(8)], "test")
    scale = fit_scale(frames)
    energies, forces = scale.energies(frames.energies, frames.species), scale.forces(frames.forces)
    assert energies.mean() == pytest.approx(0, abs=1e-9) and energies.std() == pytest.approx(1)
    assert np.sqrt(np.mean(forces[frames.species > 0].astype(float) ** 2)) == pytest.approx(1, rel=1e-6)
    assert forces.dtype == np.float32
    np.testing.assert_allclose(scale.total_energies(energies, frames.species), frames.energies, rtol=1e-12)


def test_atoms_held_in_place_do_not_count_and_one_geometry_is_refused():
    held = np.array([False, False, True, True])
    frames = from_records([record(i, fixed=held) for i in range(4)], "test")
    rms = np.sqrt(np.mean(frames.forces[:, :2].astype(float) ** 2))
    assert fit_scale(frames).force_std == pytest.approx(rms)
    with pytest.raises(ValueError, match="give frames of several geometries"):
        fit_scale(from_records([record(0), record(0)], "test"))
