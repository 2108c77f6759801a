"""SPICE's HDF5 layout: a group a molecule, all its conformations in one array, labels and units beside them.

Published files (Eastman et al., Scientific Data 2023, 10, 11) hold `atomic_numbers`, `conformations` in bohr,
`dft_total_energy` and `formation_energy` in hartree, `dft_total_gradient` in hartree/bohr, which forces are the
negative of, `subset` and `smiles`. Files of conformations before any calculation hold `conformations` in nanometres and
`smiles`, whose atom maps number the atoms; their frames come without labels, for `equiscale.data.xtb` to make.
"""

from collections.abc import Iterator

import numpy as np

from equiscale.data.force_frames import ForceRecord
from equiscale.data.force_units import Units
from equiscale.data.molecules import BadMolecule, import_rdkit
from equiscale.data.readers import Source

LENGTH_NAMES = {"bohr": "bohr", "nanometers": "nm", "nm": "nm", "angstrom": "angstrom", "angstroms": "angstrom"}


def import_h5py():
    """`h5py`, or an ImportError that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading HDF5 needs h5py: pip install 'equiscale[forces]'") from error
    return h5py


def read_spice(source: Source, units: Units | None, keys) -> Iterator[ForceRecord | BadMolecule]:
    """The frames of an HDF5 file in SPICE's layout, grouped by molecule.

    `units` None takes the unit written beside each array, bohr and hartree where none is. `keys.energy` and
    `keys.forces` name other labels than `dft_total_energy` and `dft_total_gradient`; `keys.subset` keeps molecules
    whose `subset` contains it. HDF5 keeps its index anywhere: of a file cut short nothing can be read.
    """
    h5py = import_h5py()
    try:
        file = h5py.File(source.file, "r")
    except OSError as error:
        yield BadMolecule(
            "that cannot be read", f"{source.where} is no whole HDF5 file, nothing of it is read: {error}"
        )
        return
    with file:
        for name, group in file.items():
            where = f"{source.where}, {name}"
            if not isinstance(group, h5py.Group) or "conformations" not in group:
                yield BadMolecule(
                    "in HDF5 of unknown layout",
                    f"{where} holds no `conformations`: this reads SPICE's layout, one group a molecule",
                )
            elif keys.subset is None or keys.subset in _text(group["subset"]):
                yield from _molecule(name, group, where, units, keys)


def _molecule(name: str, group, where: str, units: Units | None, keys) -> Iterator[ForceRecord | BadMolecule]:
    energy_key, gradient_key = keys.energy or "dft_total_energy", keys.forces or "dft_total_gradient"
    try:
        numbers, charge, unpaired = _atoms(group)
        positions = group["conformations"][()].astype(float)
        energies = group[energy_key][()] if energy_key in group else None
        gradients = group[gradient_key][()] if gradient_key in group else None
        found = units or _units(group, energy_key, gradient_key)
    except (KeyError, ValueError, OSError) as error:
        yield BadMolecule("that cannot be read", f"{where}: {error}")
        return
    for i, xyz in enumerate(positions):
        record = ForceRecord(
            f"{where}, conformation {i + 1}",
            name,
            numbers,
            xyz,
            None if energies is None else np.reshape(energies[i], ()),
            None if gradients is None else gradients[i].astype(float),
            charge=charge,
            unpaired=unpaired,
        )
        yield found.converted(record)


def _units(group, energy_key: str, gradient_key: str) -> Units:
    def unit(key: str, default: str) -> str:
        return group[key].attrs.get("units", default) if key in group else default

    length = unit("conformations", "bohr")
    if length not in LENGTH_NAMES:
        raise ValueError(f"conformations are in {length!r}: give units")
    return Units(LENGTH_NAMES[length], unit(energy_key, "hartree"), unit(gradient_key, "hartree/bohr"), gradients=True)


def _atoms(group) -> tuple[np.ndarray, int, int]:
    """Atomic numbers in the order of the conformations, charge and unpaired electrons."""
    chem = import_rdkit()
    smiles = _text(group["smiles"])
    settings = chem.SmilesParserParams()
    settings.removeHs = False
    settings.sanitize = False  # the atoms are wanted as they are written
    molecule = chem.MolFromSmiles(smiles, settings)
    if molecule is None:
        raise ValueError(f"smiles {smiles!r} cannot be read")
    atoms = list(molecule.GetAtoms())
    charge = sum(atom.GetFormalCharge() for atom in atoms)
    if "atomic_numbers" in group:
        numbers = group["atomic_numbers"][()].astype(int)
    else:
        order = [atom.GetAtomMapNum() for atom in atoms]
        if sorted(order) != list(range(1, len(atoms) + 1)):
            raise ValueError(f"smiles {smiles!r} does not map its atoms to 1 to {len(atoms)}, and no atomic_numbers")
        numbers = np.zeros(len(atoms), int)
        numbers[np.array(order) - 1] = [atom.GetAtomicNum() for atom in atoms]
    # Closed shells but for an odd electron, as the set is: its few diradicals, such as O2, are singlets here.
    return numbers, charge, int(numbers.sum() - charge) % 2


def _text(dataset) -> str:
    return dataset.asstr()[0]
