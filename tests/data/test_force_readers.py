"""Files with energies and forces: every format says the same of the same frames, and what is wrong is named."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from equiscale.data.force_frames import from_records
from equiscale.data.force_readers import Keys, read_forces
from equiscale.data.force_units import BOHR, FORCES, HARTREE, Units
from equiscale.data.molecules import BadMolecule
from tests.data.force_records import record, water

ase = pytest.importorskip("ase", reason="these formats are read by ASE")
h5py = pytest.importorskip("h5py", reason="SPICE's files are read by h5py")

DATA = Path(__file__).parents[3] / "shared/data"
RECORDS = [record(0), record(1), water(2)]
WANTED = from_records(RECORDS, "test")


def atoms(frame, **calculated):
    from ase.calculators.singlepoint import SinglePointCalculator

    made = ase.Atoms(frame.elements, frame.positions)
    made.calc = SinglePointCalculator(made, **({"energy": frame.energy, "forces": frame.forces} | calculated))
    return made


def write_extxyz(path, frames=RECORDS, **changes):
    from ase.io import write

    write(path, [atoms(frame) for frame in frames], format="extxyz", **changes)


def write_trajectory(path):
    from ase.io import write

    write(path, [atoms(frame) for frame in RECORDS], format="traj")


def write_database(path):
    import ase.db

    with ase.db.connect(path) as database:
        for frame in RECORDS:
            database.write(atoms(frame))


def write_archive(path, names=("E", "F", "R", "z")):
    padded = WANTED.energies, WANTED.forces.astype(float), WANTED.positions.astype(float), WANTED.species
    np.savez(path, **dict(zip(names, padded, strict=True)))


def spice_molecule(file, name, smiles, frames, labels=True):
    """As SPICE writes it: bohr and hartree with labels, nanometres without."""
    group = file.create_group(name)
    group["smiles"] = [smiles]
    group["subset"] = ["SPICE test"]
    unit = BOHR if labels else 10.0
    group["conformations"] = np.stack([frame.positions for frame in frames]) / unit
    group["conformations"].attrs["units"] = "bohr" if labels else "nanometers"
    if labels:
        group["atomic_numbers"] = frames[0].elements
        group["dft_total_energy"] = [frame.energy / HARTREE for frame in frames]
        group["dft_total_gradient"] = np.stack([-frame.forces / FORCES["hartree/bohr"] for frame in frames])


def write_spice(path):
    with h5py.File(path, "w") as file:
        spice_molecule(file, "a", "[O:1][C:2]([H:3])[H:4]", RECORDS[:2])
        spice_molecule(file, "water", "[O:1]([H:2])[H:3]", RECORDS[2:])


@pytest.mark.parametrize(
    "name, write",
    [
        ("all.extxyz", write_extxyz),
        ("all.traj", write_trajectory),
        ("all.db", write_database),
        ("all.npz", write_archive),
        ("all.hdf5", write_spice),
    ],
)
def test_every_format_holds_the_same_frames(name, write, tmp_path):
    write(tmp_path / name)
    found = from_records(read_forces(tmp_path / name), "test")
    np.testing.assert_array_equal(found.species, WANTED.species)
    for field in ("positions", "energies", "forces"):
        np.testing.assert_allclose(getattr(found, field), getattr(WANTED, field), atol=1e-6)
    if not name.endswith(".traj"):
        assert found.groups[0] == found.groups[1] != found.groups[2], "two frames of one molecule, one of another"
    with tarfile.open(tmp_path / "all.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / name, f"in/{name}")
    packed = from_records(read_forces(tmp_path / "all.tar.xz"), "test")
    for field, array in found.arrays().items():
        np.testing.assert_array_equal(getattr(packed, field), array)


def test_units_and_names_are_taken_as_told(tmp_path):
    units = Units("bohr", "kcal/mol", "kJ/mol/nm", gradients=True)
    length, energy, force = units.factors()
    arrays = {
        "numbers": WANTED.species,
        "coords": WANTED.positions / length,
        "total": WANTED.energies / energy,
        "slope": WANTED.forces / force,
    }
    np.savez(tmp_path / "odd.npz", **arrays)
    found = from_records(read_forces(tmp_path / "odd.npz", units, Keys("total", "slope")), "test")
    for field in ("positions", "energies", "forces"):
        np.testing.assert_allclose(getattr(found, field), getattr(WANTED, field), atol=2e-6)
    *_, unlabelled = read_forces(tmp_path / "odd.npz")
    assert unlabelled.energy is None and unlabelled.forces is None
    with pytest.raises(ValueError, match="unknown unit of force 'N': give one of eV/angstrom"):
        list(read_forces(tmp_path / "odd.npz", Units(force="N")))


def test_forces_are_those_before_constraints_and_the_held_atoms_are_marked(tmp_path):
    from ase.constraints import FixAtoms
    from ase.io import write

    frame = atoms(RECORDS[0])
    frame.set_constraint(FixAtoms([1, 3]))
    write(tmp_path / "held.traj", frame)
    (found,) = read_forces(tmp_path / "held.traj")
    assert found.fixed.tolist() == [False, True, False, True] and found.group == "held"
    np.testing.assert_allclose(found.forces, RECORDS[0].forces)


def test_conformations_without_labels_come_in_the_order_of_their_map(tmp_path):
    with h5py.File(tmp_path / "plain.hdf5", "w") as file:
        spice_molecule(file, "a", "[H:3][O:1][C:2][H:4]", RECORDS[:2], labels=False)
        spice_molecule(file, "ion", "[O-:1][H:2]", [water(0)._replace(positions=np.eye(3)[:2])], labels=False)
    first, second, ion = read_forces(tmp_path / "plain.hdf5")
    assert first.elements.tolist() == [8, 6, 1, 1] and first.energy is None and first.unpaired == 0
    np.testing.assert_allclose(second.positions, RECORDS[1].positions)
    assert ion.charge == -1 and ion.group == "ion"


def test_a_subset_of_spice_and_molecules_of_unknown_layout(tmp_path):
    with h5py.File(tmp_path / "some.hdf5", "w") as file:
        spice_molecule(file, "a", "[O:1][C:2]([H:3])[H:4]", RECORDS[:2])
        file.create_group("b")["positions"] = np.zeros((1, 3))
    assert [type(r) for r in read_forces(tmp_path / "some.hdf5", keys=Keys(subset="QMugs"))] == [BadMolecule]
    *good, bad = read_forces(tmp_path / "some.hdf5", keys=Keys(subset="test"))
    assert len(good) == 2 and bad.reason == "in HDF5 of unknown layout" and "some.hdf5, b" in str(bad)


@pytest.mark.parametrize("name, write", [("cut.extxyz", write_extxyz), ("cut.db", write_database)])
def test_of_a_file_cut_short_the_frames_before_the_cut_come_first(name, write, tmp_path):
    write(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: -20 if name == "cut.extxyz" else len(whole) // 2])
    *good, bad = read_forces(tmp_path / name)
    assert bad.reason == "cut short" and name in str(bad)
    assert len(good) == (2 if name == "cut.extxyz" else 0)


@pytest.mark.parametrize(
    "name, write", [("cut.traj", write_trajectory), ("cut.npz", write_archive), ("cut.h5", write_spice)]
)
def test_a_damaged_file_is_one_complaint(name, write, tmp_path):
    write(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    (bad,) = read_forces(tmp_path / name)
    assert isinstance(bad, BadMolecule) and name in str(bad)


@pytest.mark.parametrize(
    "content, message",
    [
        ("two\n", "frame 1: 'two' is no number of atoms"),
        ("\n2\n", "frame 1: an empty line"),
        ('1\nProperties=species:S:1:pos:R:3\nXx 0 0 zero\n', "frame 1"),
    ],
)  # fmt: skip
def test_a_bad_extended_xyz_is_named(content, message, tmp_path):
    (tmp_path / "bad.xyz").write_text(content)
    *_, bad = read_forces(tmp_path / "bad.xyz")
    assert isinstance(bad, BadMolecule) and message in str(bad)


def test_a_bad_frame_does_not_end_the_reading(tmp_path):
    write_extxyz(tmp_path / "some.xyz")
    lines = (tmp_path / "some.xyz").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(lines[2].split()[1], "nowhere", 1)
    (tmp_path / "some.xyz").write_text("".join(lines))
    bad, *good = read_forces(tmp_path / "some.xyz")
    assert isinstance(bad, BadMolecule) and len(good) == 2


def test_arrays_of_unknown_names_and_files_of_unknown_kind(tmp_path):
    write_archive(tmp_path / "odd.npz", names=("E", "F", "where", "what"))
    (bad,) = read_forces(tmp_path / "odd.npz")
    assert "holds E, F, what, where: needs one of z, nuclear_charges" in str(bad)
    (tmp_path / "notes.md").write_text("# notes")
    (bad,) = read_forces(tmp_path / "notes.md")
    assert "no reader for '.md'" in str(bad)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(read_forces(tmp_path / "nowhere.xyz"))


@pytest.mark.skipif(not DATA.exists(), reason="published structures are not part of the project")
@pytest.mark.parametrize(
    "path, n, groups, widest",
    [
        ("forces/ethanol_train.xyz", 1000, 1, 9),
        ("forces/qm7x_frames.npz", 1840, 60, 23),
        ("oc20/oc20_traj_21.tar.xz", None, 21, 185),
    ],
)
def test_published_files(path, n, groups, widest):
    frames = from_records(read_forces(DATA / path), path)
    assert n in (None, len(frames)) and len(set(frames.groups)) == groups and frames.species.shape[1] == widest
    assert (frames.cell is not None) == frames.fixed.any() == path.startswith("oc20")
    assert np.isfinite(frames.forces).all() and 0.01 < frames.force_rms < 3
