"""Moments and orbitals by GFN2-xTB: they turn with the molecule, and the set is the same however it is made."""

import numpy as np
import pytest

pytest.importorskip("tblite", reason="GFN2-xTB is tblite's")

from scipy.spatial.transform import Rotation

from equiscale.data import xtb, xtb_quantities
from equiscale.data.molecules import BadMolecule

WATER = np.array([8, 1, 1]), np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0.02, -0.8, -0.45]])


def test_moments_turn_with_the_molecule_and_do_not_move_with_it():
    g = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    numbers, xyz = WATER
    found, turned = xtb.quantities(numbers, xyz), xtb.quantities(numbers, xyz @ g.T + 3.0)
    np.testing.assert_allclose(turned["dipole"], g @ found["dipole"], atol=1e-8)
    np.testing.assert_allclose(turned["quadrupole"], g @ found["quadrupole"] @ g.T, atol=1e-7)
    assert np.trace(found["quadrupole"]) == pytest.approx(0, abs=1e-9)
    assert turned["gap"] == pytest.approx(found["gap"], abs=1e-8) and 1.5 < np.linalg.norm(found["dipole"]) < 2.5
    assert found["gap"] == pytest.approx(found["lumo"] - found["homo"]) and found["homo"] < -8


def test_hydrogen_fluoride_is_positive_at_its_hydrogen():
    """The dipole points from fluorine to hydrogen, the quadrupole is axial; by experiment 1.8 D, and 2.4 D angstrom
    about the centre of mass.
    """
    length = 0.917
    found = xtb.quantities(np.array([9, 1]), np.array([[0, 0, 0], [0, 0, length]]))
    np.testing.assert_allclose(found["dipole"][:2], 0, atol=1e-9)
    assert 1.5 < found["dipole"][2] < 3
    axial = found["quadrupole"][2, 2]
    np.testing.assert_allclose(found["quadrupole"], axial * np.diag([-0.5, -0.5, 1]), atol=1e-8)
    of_centre = length / 2 - length / 20  # from the centre of mass to the centroid
    assert 1.5 < axial + 2 * of_centre * found["dipole"][2] < 3


def test_a_quadrupole_moves_with_its_origin_as_a_dipole_has_it():
    """Of Buckingham's definition: about a point t away, 3/2 (t m' + m t') - (t . m) I more, for a dipole m.

    tblite takes the origin of coordinates, whose diagonals are read here.
    """
    numbers, xyz = WATER
    t = np.array([0.7, -1.1, 0.4])
    here, there = (xtb._singlepoint(numbers, xyz + shift) for shift in (0, t))
    dipole = here.get("dipole")
    change = 1.5 * (np.outer(t, dipole) + np.outer(dipole, t)) - t @ dipole * np.eye(3)
    diagonals = [result.get("quadrupole")[[0, 2, 5]] for result in (here, there)]
    np.testing.assert_allclose(diagonals[1] - diagonals[0], np.diag(change) / xtb.BOHR, atol=1e-6)


def test_diagonals_in_three_frames_are_a_tensor():
    a = np.random.default_rng(0).normal(size=(3, 3))
    tensor = a + a.T
    diagonals = np.stack([np.diag(frame @ tensor @ frame.T) for frame in xtb.FRAMES])
    np.testing.assert_allclose(xtb.from_diagonals(diagonals), tensor, atol=1e-12)
    diagonals[1, 2] += 0.1
    with pytest.raises(ValueError, match="of no tensor"):
        xtb.from_diagonals(diagonals)


def test_an_unpaired_electron_leaves_no_gap():
    with pytest.raises(BadMolecule, match=r"2 atoms, orbitals filled by .*: no gap"):
        xtb.quantities(np.array([7, 8]), np.array([[0, 0, 0], [0, 0, 1.15]]))


@pytest.fixture(scope="module")
def made():
    return xtb_quantities.load(16, max_atoms=12, processes=1, progress=False)


def test_the_set_is_of_real_compounds_with_their_quantities(made):
    molecules, report = made
    assert len(molecules) == 16 == report.kept and molecules.n_atoms.max() <= 12
    assert report.reasons["of more than 12 atoms"] > 16
    row = 7
    real = molecules.species[row] > 0
    for name, value in xtb.quantities(molecules.species[row][real], molecules.positions[row][real]).items():
        np.testing.assert_allclose(molecules.columns[name][row], value, atol=1e-6)


def test_a_smaller_set_is_the_beginning_and_nothing_is_made_twice(made, monkeypatch):
    monkeypatch.setattr(xtb, "workers", None)  # what is stored needs none
    some, _ = xtb_quantities.load(5, max_atoms=12, progress=False)
    np.testing.assert_array_equal(some.columns["dipole"], made[0].columns["dipole"][:5])
    assert some.names == made[0].names[:5]
    with pytest.raises(ValueError, match="n_molecules=0: give at least 1"):
        xtb_quantities.load(0)
