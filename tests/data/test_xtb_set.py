"""Labels by GFN2-xTB: the derivative of their energy, equivariant, and a set that is the same however it is made."""

import numpy as np
import pytest

pytest.importorskip("tblite", reason="GFN2-xTB is tblite's")

from equiscale.data import xtb, xtb_set
from equiscale.data.cache import cache_path
from equiscale.data.force_frames import ForceRecord
from equiscale.data.force_units import check_units
from equiscale.data.molecules import BadMolecule
from equiscale.rotations import cube

WATER = np.array([8, 1, 1]), np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0.02, -0.8, -0.45]])


def test_forces_are_minus_the_derivative_of_the_energy():
    numbers, xyz = WATER
    _, forces = xtb.label(numbers, xyz)
    step = 1e-3
    for atom, axis in ((0, 2), (1, 1), (2, 0)):
        energies = []
        for sign in (1, -1):
            moved = xyz.copy()
            moved[atom, axis] += sign * step
            energies.append(xtb.label(numbers, moved)[0])
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=1e-3)


def test_labels_turn_with_the_molecule():
    numbers, xyz = WATER
    energy, forces = xtb.label(numbers, xyz)
    turned_energy, turned = xtb.label(numbers, xyz @ np.asarray(cube())[7].T + 3.0)
    assert turned_energy == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(turned, forces @ np.asarray(cube())[7].T, atol=1e-7)


def test_records_are_labelled_in_their_order_and_labels_stay():
    bad = BadMolecule("of a kind", "not read")
    numbers, xyz = WATER
    plain = ForceRecord("plain", "water", numbers, xyz)
    ion = ForceRecord("ion", "hydroxide", numbers[:2], xyz[:2], charge=-1)
    told = plain._replace(energy=1.0, forces=np.ones((3, 3)))
    overlapping = plain._replace(where="overlapping", positions=np.zeros((3, 3)))
    first, second, third, fourth, fifth = xtb.labelled([plain, bad, told, ion, overlapping], processes=1)
    assert (
        first.energy == pytest.approx(xtb.label(*WATER)[0], abs=1e-8)
        and str(second) == str(bad)
        and third.energy == 1.0
    )
    assert fourth.energy < -100 and isinstance(fifth, BadMolecule) and "overlapping" in str(fifth)


@pytest.fixture(scope="module")
def made():
    return xtb_set.load(96, processes=2, progress=False)


def test_the_set_is_of_real_compounds_with_labels_that_pass_the_check(made):
    frames, report = made
    assert len(frames) == 96 and frames.n_atoms.max() <= 50 and report.kept == 96
    assert 0.3 < frames.force_rms < 2 and set(np.unique(frames.species)) <= {0, 1, 6, 7, 8, 9, 15, 16, 17, 35, 53}
    row = 11
    real = frames.species[row] > 0
    energy, forces = xtb.label(frames.species[row][real], frames.positions[row][real])
    assert energy == pytest.approx(frames.energies[row], abs=1e-6)
    np.testing.assert_allclose(forces, frames.forces[row][real], atol=1e-5)
    assert check_units(frames).advice is None


def test_a_smaller_set_is_the_beginning_and_nothing_is_made_twice(made, monkeypatch):
    frames, _ = made
    monkeypatch.setattr(xtb, "workers", None)  # what is stored needs none
    some, _ = xtb_set.load(40, progress=False)
    np.testing.assert_array_equal(some.energies, frames.energies[:40])
    assert some.groups == frames.groups[:40]


@pytest.mark.slow  # half a minute
def test_it_does_not_depend_on_processes_or_on_an_earlier_end(made, tmp_path):
    some, _ = xtb_set.load(20, processes=1, cache_dir=tmp_path, progress=False)
    np.testing.assert_array_equal(some.forces[:, :9], made[0].forces[:20, :9])
    (folder,) = tmp_path.glob("xtb-*")
    assert folder.name.startswith(cache_path("xtb", {}).name[:4])
    (folder / "00000.npz").write_bytes(b"cut short")
    with pytest.warns(UserWarning, match="damaged"):
        again, _ = xtb_set.load(20, processes=1, cache_dir=tmp_path, progress=False)
    np.testing.assert_array_equal(again.energies, some.energies)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_frames": 0}, "n_frames=0: give at least 1"),
        ({"conformers": 0}, "conformers=0"),
        ({"temperatures": (-3.0,)}, "above 0 K"),
        ({"elements": ("H", "Q")}, "Q"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        xtb_set.load(**{"n_frames": 4} | settings)
