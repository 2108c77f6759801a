"""The unit check: frames of known physics in every wrong unit are refused, and its advice mends them."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ase", reason="neighbours and radii come from ASE")

from equiscale.data.force_frames import ForceRecord, from_records
from equiscale.data.force_readers import read_forces
from equiscale.data.force_units import ENERGIES, FORCES, LENGTHS, Units, check_units

DATA = Path(__file__).parents[3] / "shared/data"
# A methane of springs: bonds as stiff as C-H bonds are, hydrogens that keep apart.
CORNERS = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 1.09 / np.sqrt(3)
REST = np.linalg.norm(CORNERS[:, None] - CORNERS, axis=-1)
STIFFNESS = np.where((np.arange(5) == 0)[:, None] | (np.arange(5) == 0), 31.0, 2.5)
NUMBERS = np.array([6, 1, 1, 1, 1])


def methane(seed, spread=0.05):
    xyz = CORNERS + np.random.default_rng(seed).normal(scale=spread, size=(5, 3))
    apart = xyz[:, None] - xyz
    distance = np.linalg.norm(apart, axis=-1)
    stretch = distance - REST
    pull = -STIFFNESS * stretch / np.where(distance > 0, distance, 1)
    energy = np.sum(STIFFNESS * stretch**2) / 4 - 1100
    return ForceRecord(f"methane {seed}", "methane", NUMBERS, xyz, energy, np.sum(pull[..., None] * apart, axis=1))


RECORDS = [methane(seed) for seed in range(60)]


def written_in(units, records=RECORDS):
    """The frames as a file in these units has them, read as if it were in angstrom, eV and eV/angstrom."""
    length, energy, force = units.factors()
    return [
        r._replace(positions=r.positions / length, energy=r.energy / energy, forces=r.forces / force) for r in records
    ]


def test_right_units_are_agreed_with():
    found = check_units(from_records(RECORDS, "springs"))
    assert found.advice is None and found.units is None
    assert found.lengths.word == found.forces.word == found.energies.word == "agree", str(found)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("gradients", [False, True], ids=["forces", "gradients"])
@pytest.mark.parametrize("energy", ["eV", "kcal/mol", "hartree", "meV"])
def test_wrong_units_are_refused_and_the_advice_mends_them(length, energy, gradients):
    """For every system of units: what is advised reads the file as it was."""
    unit_of_length = "angstrom" if length == "nm" else length
    units = Units(length, energy, f"{energy}/{unit_of_length}", gradients)
    if units == Units():
        return
    frames = from_records(written_in(units), "springs")
    found = check_units(frames)
    assert found.advice is not None and found.units == units, str(found)
    mended = from_records([found.units.converted(record) for record in written_in(units)], "springs")
    np.testing.assert_allclose(mended.forces, from_records(RECORDS, "springs").forces, rtol=1e-4, atol=1e-5)
    assert check_units(mended).advice is None


def test_one_wild_step_does_not_refuse_a_relaxation():
    """A step so long that the trapezoidal rule means nothing, with more work in it than in all the others."""
    path = [methane(0, spread=0.1 * 0.9**i) for i in range(30)]
    torn = methane(0)._replace(positions=1.3 * CORNERS, forces=-180 * CORNERS, energy=-1095.0)
    repeats = {"group": "relaxation", "cell": 20 * np.eye(3), "pbc": np.ones(3, bool)}  # only frames that follow count
    found = check_units(from_records([r._replace(**repeats) for r in [*path[:20], torn, *path[20:]]], "relaxation"))
    assert found.advice is None and found.energies.word == "agree", str(found)


def test_energies_per_atom_are_told_from_units():
    per_atom = [record._replace(energy=record.energy / 5) for record in RECORDS]
    found = check_units(from_records(per_atom, "springs"))
    assert found.energies.word == "contradict" and "by each frame's number of atoms" in found.advice
    assert found.units is None, "there is no unit to read them with"


def test_zero_forces_are_no_labels():
    zero = [record._replace(forces=np.zeros((5, 3))) for record in RECORDS]
    assert "all forces are zero" in check_units(from_records(zero, "springs")).advice


def test_frames_that_are_too_few_cannot_tell():
    found = check_units(from_records(RECORDS[:1], "springs"))
    assert found.advice is None and found.forces.word == "cannot tell" and len(found.forces.others) > 5
    assert any("not measured" in line for line in found.evidence)


def test_positions_that_are_none_are_said_to_be_in_no_unit():
    far = [record._replace(positions=record.positions * 40) for record in RECORDS]
    assert "positions are in no units known here" in check_units(from_records(far, "springs")).advice


def test_units_are_in_the_ratio_physics_has_them():
    assert ENERGIES["hartree"] / ENERGIES["kcal/mol"] == pytest.approx(627.5095, rel=1e-6)
    assert FORCES["hartree/bohr"] == pytest.approx(51.42207, rel=1e-6)
    assert FORCES["kJ/mol/nm"] * 10 * 4.184 == pytest.approx(FORCES["kcal/mol/angstrom"])
    with pytest.raises(ValueError, match="unknown unit of energy 'ev': give one of eV"):
        Units(energy="ev").factors()


@pytest.mark.skipif(not DATA.exists(), reason="published structures are not part of the project")
@pytest.mark.parametrize("path", ["ethanol_train.xyz", "acac_train_300K.xyz", "3BPA_train_300K.xyz", "qm7x_frames.npz"])
def test_published_files_are_forces_in_ev(path):
    records = list(read_forces(DATA / "forces" / path))[:400]
    assert check_units(from_records(records, path)).advice is None
    turned = [record._replace(forces=-record.forces) for record in records]
    found = check_units(from_records(turned, path))
    assert found.advice is not None and found.units.gradients, str(found)
