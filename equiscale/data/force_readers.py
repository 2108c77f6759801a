"""Frames with energies and forces out of files: extended XYZ, ASE trajectories and databases, NumPy archives.

As `equiscale.data.readers`: alone, gzipped, in tar archives or below folders, a `BadMolecule` in the place of each
frame that cannot be read. HDF5 files in SPICE's layout are in `equiscale.data.spice`. Numbers are taken to be in
angstrom, eV and eV/angstrom unless `units` says otherwise; `equiscale.data.force_units` checks them.
"""

import io
import itertools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from equiscale.data.force_frames import ForceRecord
from equiscale.data.force_units import Units
from equiscale.data.molecules import BadMolecule
from equiscale.data.readers import Source, import_ase, reader_of, walk
from equiscale.data.spice import read_spice

# Names of arrays in NumPy archives, MD17's, revised MD17's and QM7-X's first.
NPZ_KEYS = {
    "numbers": ("z", "nuclear_charges", "atomic_numbers", "numbers", "species", "Z"),
    "positions": ("R", "coords", "positions", "coordinates"),
    "energy": ("E", "energies", "energy"),
    "forces": ("F", "forces"),
}


class Keys(NamedTuple):
    """What the labels are called in a file, where that is not what its format calls them, and which SPICE subsets."""

    energy: str | None = None
    forces: str | None = None
    subset: str | None = None


def read_forces(
    path: str | os.PathLike, units: Units | None = None, keys: Keys | None = None
) -> Iterator[ForceRecord | BadMolecule]:
    """The frames of a file, of every file in an archive, or of every file below a folder, in the order of names.

    `units` are those of the numbers in the file, by default what the file or its format says, else angstrom, eV and
    eV/angstrom. A file of another kind is one `BadMolecule`; of a file cut short all frames before the cut come first.
    Raises FileNotFoundError for a path that is not there; ImportError without ASE or h5py where they are needed.
    """
    for source in walk(path):
        found = source if isinstance(source, BadMolecule) else reader_of(source, READERS)
        if isinstance(found, BadMolecule):
            yield found
        else:
            yield from found(source, units, keys or Keys())


def _extxyz(source: Source, units: Units | None, keys: Keys) -> Iterator[ForceRecord | BadMolecule]:
    """Frame by frame, so that a bad one does not end the reading and a long file need not fit in memory."""
    ase = import_ase()
    lines = io.TextIOWrapper(source.file, errors="replace")
    for number in itertools.count(1):
        where = f"{source.where}, frame {number}"
        head = lines.readline()
        if not head.strip():
            rest = head + lines.read()
            if rest.strip():
                yield BadMolecule("that cannot be read", f"{where}: an empty line; what follows it is not read")
            return
        try:
            n_atoms = int(head)
        except ValueError:
            yield BadMolecule(
                "that cannot be read", f"{where}: {head.strip()[:40]!r} is no number of atoms; the rest is not read"
            )
            return
        body = list(itertools.islice(lines, n_atoms + 1))
        if len(body) < n_atoms + 1 or not body[-1].endswith("\n"):
            yield BadMolecule(
                "cut short", f"{where}: the file ends inside it, with {body[-1:]}; a whole one ends a line"
            )
            return
        try:
            (frame,) = ase.io.extxyz.read_xyz(io.StringIO(head + "".join(body)), 0)
        except Exception as error:  # ASE raises many kinds
            yield BadMolecule("that cannot be read", f"{where}: {error}")
        else:
            yield _record(frame, where, None, units, keys)


def _trajectory(source: Source, units: Units | None, keys: Keys) -> Iterator[ForceRecord | BadMolecule]:
    """An ASE trajectory, whose frames are one group named by the file. One cut short keeps its table of frames."""
    ase = import_ase()
    try:
        frames = ase.io.trajectory.TrajectoryReader(source.file)
        n = len(frames)
    except Exception as error:  # ASE raises many kinds
        yield BadMolecule("that cannot be read", f"{source.where} is no ASE trajectory: {error}")
        return
    for i in range(n):
        where = f"{source.where}, frame {i + 1} of {n}"
        try:
            frame = frames[i]
        except Exception as error:
            yield BadMolecule("cut short", f"{where} cannot be read: {error}")
        else:
            yield _record(frame, where, pathlib.PurePath(source.name).stem, units, keys)


def _database(source: Source, units: Units | None, keys: Keys) -> Iterator[ForceRecord | BadMolecule]:
    """An ASE database; its rows are grouped by the key `name` where they have it, else by formula."""
    ase = import_ase()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(getattr(source.file, "name", ""))  # SQLite reads paths only
        if not path.is_file():
            path = pathlib.Path(folder, pathlib.PurePath(source.name).name)
            path.write_bytes(source.file.read())
        try:
            for row in ase.db.connect(path).select():
                yield _record(
                    row.toatoms(add_additional_information=True), f"{source.where}, row {row.id}", None, units, keys
                )
        except Exception as error:  # SQLite's and ASE's kinds
            yield BadMolecule("cut short", f"{source.where} cannot be read to its end: {error}")


def _record(frame, where: str, group: str | None, units: Units | None, keys: Keys) -> ForceRecord:
    """ASE's atoms as a record: raw forces, as they were before constraints held atoms in place."""
    about = {**frame.info, **frame.info.get("key_value_pairs", {})}
    results = frame.calc.results if frame.calc is not None else {}
    energy_key, forces_key = keys.energy or "energy", keys.forces or "forces"
    energy = results.get(energy_key, about.get(energy_key))
    forces = results.get(forces_key, frame.arrays.get(forces_key))
    fixed = np.zeros(len(frame), bool)
    for constraint in frame.constraints:
        if type(constraint).__name__ == "FixAtoms":
            fixed[constraint.index] = True
    group = group or str(about.get("smiles") or about.get("name") or frame.get_chemical_formula())
    record = ForceRecord(
        where,
        group,
        frame.numbers,
        frame.positions,
        energy,
        forces,
        frame.cell.array,
        frame.pbc,
        fixed,
        charge=int(about.get("charge", about.get("total_charge", 0))),
    )
    return (units or Units()).converted(record)


def _npz(source: Source, units: Units | None, keys: Keys) -> Iterator[ForceRecord | BadMolecule]:
    """Arrays over frames, atomic numbers [n_atoms] of all or [n, max_atoms], zero for padding; groups are formulas."""
    from equiscale.data.stored_molecules import formula

    try:
        with np.load(source.file, allow_pickle=False) as stored:
            held = set(stored.files)
            names = dict(NPZ_KEYS) | {k: (v,) for k, v in (("energy", keys.energy), ("forces", keys.forces)) if v}
            chosen = {what: next((name for name in options if name in held), None) for what, options in names.items()}
            arrays = {what: stored[name] for what, name in chosen.items() if name}
    except Exception as error:  # zipfile's, zlib's and NumPy's kinds
        yield BadMolecule(
            "that cannot be read",
            f"{source.where} is no whole NumPy archive, whose table of contents comes last, so nothing of it is read: "
            f"{error}",
        )
        return
    if not {"numbers", "positions"} <= set(arrays):
        yield BadMolecule(
            "in arrays of unknown names",
            f"{source.where} holds {', '.join(sorted(held))}: needs one of {', '.join(NPZ_KEYS['numbers'])} and of "
            f"{', '.join(NPZ_KEYS['positions'])}",
        )
        return
    n = len(arrays["positions"])
    for i in range(n):
        where = f"{source.where}, frame {i + 1}"
        numbers = arrays["numbers"] if arrays["numbers"].ndim == 1 else arrays["numbers"][i]
        real = numbers != 0
        energy = np.reshape(arrays["energy"][i], ()) if "energy" in arrays else None
        forces = arrays["forces"][i][real] if "forces" in arrays else None
        record = ForceRecord(where, formula(numbers[real]), numbers[real], arrays["positions"][i][real], energy, forces)
        yield (units or Units()).converted(record)


READERS = {
    ".xyz": _extxyz,
    ".extxyz": _extxyz,
    ".traj": _trajectory,
    ".db": _database,
    ".npz": _npz,
    ".h5": read_spice,
    ".hdf5": read_spice,
}
