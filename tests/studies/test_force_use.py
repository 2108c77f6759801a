"""A trained force field in use: as an ASE calculator, and in dynamics by the command."""

import json

import matplotlib.image
import numpy as np
import pytest

from equiscale.data.element_references import read_scale
from equiscale.studies.ase_calculator import load_calculator
from equiscale.studies.head_report import head_figure
from equiscale.training.run_folder import read_metrics
from tests.commands import start

ase = pytest.importorskip("ase", reason="the calculator is ASE's")
pytest.importorskip("tblite", reason="the frames are labelled by tblite")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A smoke run of the command, with the constants its predictions are read with."""
    folder = tmp_path_factory.mktemp("forces") / "run"
    result = start(
        "--config=configs/force_field.py", "--config.preset=smoke", f"--workdir={folder}", "--config.data.buckets=1",
        "--config.evaluation.instruments=('errors','head')", module="train",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "neighbours within 6 angstrom: kept" in result.stdout and "28,417  parameters" in result.stdout
    sizes = json.loads((folder / "sizes.json").read_text())
    assert sizes["parameters"] == 28_417 and f"{sizes['examples']:,} frames to train on" in result.stdout
    return folder


def water(scale=1.0):
    return ase.Atoms("OH2", scale * np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0.02, -0.8, -0.45]]))


def test_the_run_logs_the_closed_form_beside_the_sampled_one(run):
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [0, 1, 4]
    for row in rows:
        error = np.hypot(row["percent_stderr"], row["head"]["percent_stderr"])
        assert abs(row["percent"] - row["head"]["percent"]) < 4 * error and row["head"]["bounds_hold"]
    figure = head_figure({"smoke": rows}, "smoke")
    assert [len(panel.lines) for panel in figure.axes] == [3, 1]


def test_the_calculator_is_the_model_in_ev(run):
    scale = read_scale(json.loads((run / "constants.json").read_text()))
    atoms, far = water(), water()
    atoms.calc = load_calculator(run)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert abs(energy - scale.references.total(atoms.numbers[None])[0] - scale.mean) < 50 * scale.std
    assert forces.shape == (3, 3) and np.abs(forces).max() > 1e-3
    far.positions += 40.0
    far.calc = atoms.calc
    np.testing.assert_allclose(far.get_forces(), forces, atol=1e-4)
    assert far.get_potential_energy() == pytest.approx(energy, abs=1e-4)


def test_twirled_forces_turn_with_the_atoms_and_the_models_own_do_not(run):
    def forces(angle, **settings):
        atoms = water()
        atoms.rotate(angle, "z")
        atoms.calc = load_calculator(run, **settings)
        return atoms.get_forces()

    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    plain, twirled = forces(0), forces(0, twirled=True)
    np.testing.assert_allclose(forces(90, twirled=True), twirled @ turn.T, atol=1e-4)
    assert np.abs(forces(90) - plain @ turn.T).max() > 1e-2


def test_what_a_calculator_cannot_do_is_said(run, tmp_path):
    atoms = ase.Atoms("OFe", [[0, 0, 0], [0, 0, 1.7]], calculator=load_calculator(run, averaged=True))
    with pytest.raises(ValueError, match="no reference energy of Fe"):
        atoms.get_forces()
    atoms = ase.Atoms("OH", [[0, 0, 0], [0, 0, 0]], calculator=atoms.calc)
    with pytest.raises(ValueError, match="on top of each other"):
        atoms.get_forces()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load_calculator(tmp_path)


@pytest.mark.slow  # what it computes is tested in test_curvature and test_force_field
def test_the_spectrum_of_the_force_head(run):
    """Also of a single run: both Hessians have rank at most twice that of the moments' Gram matrix."""
    result = start(f"--workdir={run}", "--half_width=1", "--molecules=4", module="spectrum")
    assert result.returncode == 0, result.stderr[-3000:]
    numbers = json.loads((run / "spectrum" / "step-4.json").read_text())
    assert numbers["parameters"] == ["force_head/weight"] and numbers["mean"]["n"] == 3 * 16
    assert matplotlib.image.imread(run / "spectrum" / "step-4-plane.png").std() > 0.01
    missing = start(f"--workdir={run}", "--arm=cube", module="spectrum")
    assert missing.returncode != 0 and "--arm 'cube' is none of" in missing.stderr


@pytest.mark.slow  # dynamics are tested in tests/sampling
def test_the_command_moves_molecules_at_every_factor(run):
    short = ("--molecules=2", "--picoseconds=0.004", "--frames=4", "--xtb", "--temperature=50")
    result = start(f"--workdir={run}", "--breaking=0,1", *short, module="dynamics")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "twirled" in result.stdout and "as trained" in result.stdout and "true drift" in result.stdout
    found = json.loads((run / "dynamics" / "dynamics.json").read_text())
    twirled, trained = found["rows"]
    assert twirled["percent"] < 1e-4 < trained["percent"] and twirled["molecules"] == 2
    assert twirled["drift_true"] is not None and twirled["drift"] >= abs(twirled["heating"]) - 1e-9
    assert matplotlib.image.imread(run / "dynamics" / "dynamics.png").std() > 0.01
    mistyped = start(f"--workdir={run}", "--breaking=zero", module="dynamics")
    assert mistyped.returncode != 0 and "--breaking=zero: give numbers" in mistyped.stderr
