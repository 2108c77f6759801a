"""Put frames with energies and forces on disk as force fields read them, after a check of their units and signs.

    python -m experiments.prepare_forces --output=sets/ethanol --compounds=frame ethanol.xyz
    python -m experiments.prepare_forces --output=sets/md --energy_unit=kcal/mol --force_unit=kcal/mol/angstrom md17.npz
    python -m experiments.prepare_forces --output=sets/spice --subset=PubChem SPICE.hdf5
    python -m experiments.prepare_forces --output=sets/relaxations trajectories.tar.xz
    python -m experiments.prepare_forces --output=sets/mine --label conformers.hdf5
    python -m experiments.prepare_forces --output=sets/xtb --xtb_frames=10000

Reads extended XYZ, ASE trajectories and databases, NumPy archives as MD17 and QM7-X have them, HDF5 in SPICE's layout:
files, folders of them, gzipped ones, tar archives. Numbers are in angstrom, eV and eV/angstrom or in what the file
says, unless flags tell. Before anything is written the first 2,000 frames of each argument are held against known bond
lengths and stiffnesses and their energies against the work of their forces: gradients instead of forces, kcal/mol,
hartree, bohr and nanometres are refused, with the flags to read them. Bad frames (missing label, number that is not
finite, net charge, damaged file) are left out and counted by reason. Training and validation never share a compound.

With --xtb_frames nothing is read: compounds from RDKit's list of real molecules are set in thermal motion and labelled
by GFN2-xTB, about 20 frames a second on a core. What is interrupted goes on when started again.
"""

import itertools
import pathlib
from collections.abc import Iterator

from absl import app, flags
from tqdm import tqdm

from equiscale.data import xtb, xtb_set
from equiscale.data.force_frames import ForceRecord, checked, pad
from equiscale.data.force_readers import Keys, read_forces
from equiscale.data.force_units import ENERGIES, FORCES, LENGTHS, Units, check_units
from equiscale.data.molecules import BadMolecule
from equiscale.data.stored_forces import write_forces
from equiscale.data.stored_molecules import formula
from experiments.inputs import FirstOfEach, megabytes, named

CHECKED = 2_000  # frames of each argument on which units are checked

OUTPUT = flags.DEFINE_string("output", None, "folder to write, which must not be there yet", required=True)
COMPOUNDS = flags.DEFINE_enum(
    "compounds",
    "group",
    ["group", "formula", "frame"],
    "what counts as one compound: a molecule or trajectory as the file names it, a formula, or each frame by itself, "
    "which one molecule's frames need",
)
LENGTH = flags.DEFINE_enum("length_unit", None, list(LENGTHS), "unit of the positions, if not angstrom")
ENERGY = flags.DEFINE_enum("energy_unit", None, list(ENERGIES), "unit of the energies, if not eV")
FORCE = flags.DEFINE_enum("force_unit", None, list(FORCES), "unit of the forces, if not eV/angstrom")
GRADIENTS = flags.DEFINE_bool("gradients", False, "the file's forces are gradients, of the opposite sign")
CHECK = flags.DEFINE_bool("check_units", True, "refuse frames in other units; --nocheck_units writes them all the same")
ENERGY_KEY = flags.DEFINE_string("energy_key", None, "what the energies are called, if not as usual in the format")
FORCES_KEY = flags.DEFINE_string("forces_key", None, "what the forces are called, if not as usual in the format")
SUBSET = flags.DEFINE_string("subset", None, "of SPICE's layout only molecules whose subset contains this")
LABEL = flags.DEFINE_bool("label", False, "label frames that have neither energy nor forces by GFN2-xTB")
IONS = flags.DEFINE_bool("ions", False, "keep frames with a net charge, which the set does not tell")
MAX_ATOMS = flags.DEFINE_integer("max_atoms", None, "leave out larger frames")
MAX_FORCE = flags.DEFINE_float("max_force", None, "leave out frames with a larger component of force, in eV/angstrom")
XTB_FRAMES = flags.DEFINE_integer("xtb_frames", None, "make so many frames instead of reading files")
SEED = flags.DEFINE_integer("seed", 0, "of what --xtb_frames makes")
PROCESSES = flags.DEFINE_integer("processes", None, "processes for GFN2-xTB, by default one per core")

FRAMES = itertools.count()
LABELS = {
    "group": lambda frame: frame.group,
    "formula": lambda frame: formula(frame.species),
    "frame": lambda frame: str(next(FRAMES)),
}


def main(argv):
    try:
        if XTB_FRAMES.value is not None:
            frames, report = xtb_set.load(XTB_FRAMES.value, seed=SEED.value, processes=PROCESSES.value)
            print(report)
            run(frames.records(), frames.source)
        else:
            paths = named(argv)
            run(read(paths), ", ".join(path.name for path in paths))
    except (FileNotFoundError, FileExistsError, ImportError, ValueError) as error:
        raise app.UsageError(str(error)) from error


def run(records: Iterator[ForceRecord | BadMolecule], source: str) -> None:
    output = pathlib.Path(OUTPUT.value)
    stored, report = write_forces(output, records, source, LABELS[COMPOUNDS.value], FirstOfEach(), **limits())
    print(f"{report}\n{output}: {len(stored):,} frames of up to {stored.n_atoms.max()} atoms, {megabytes(output)}")


def limits() -> dict:
    return {"max_atoms": MAX_ATOMS.value, "max_force": MAX_FORCE.value, "ions": IONS.value}


def read(paths: list[pathlib.Path]) -> Iterator[ForceRecord | BadMolecule]:
    keys = Keys(ENERGY_KEY.value, FORCES_KEY.value, SUBSET.value)
    for path in paths:
        records = read_forces(path, units(), keys)
        if LABEL.value:
            records = xtb.labelled(records, PROCESSES.value)
        records = iter(tqdm(records, desc=path.name, unit="frame"))
        first = list(itertools.islice(records, CHECKED))
        check(first, path.name)
        yield from itertools.chain(first, records)


def units() -> Units | None:
    """What the flags say, or None where they say nothing."""
    said = {"length": LENGTH.value, "energy": ENERGY.value, "force": FORCE.value}
    said = {name: unit for name, unit in said.items() if unit is not None}
    return Units(**said, gradients=GRADIENTS.value) if said or GRADIENTS.value else None


def check(records: list[ForceRecord | BadMolecule], name: str) -> None:
    """Say what the unit check says. Raises ValueError where it refuses."""
    good = list(checked(records, [], **limits()))
    if not good:
        return  # what is wrong with them is told when they are left out
    found = check_units(pad(good, name))
    tqdm.write(f"{name}: {found}")
    if found.advice is None or not CHECK.value:
        return
    advice = found.advice
    if units() is not None:
        advice += "; this is after the conversion that the flags ask for"
    elif found.units is not None:
        length, energy, force, gradients = found.units
        advice += f"; here --length_unit={length} --energy_unit={energy} --force_unit={force}"
        advice += " --gradients" if gradients else ""
    raise ValueError(f"{name} is not in angstrom, eV and eV/angstrom: {advice}")


if __name__ == "__main__":
    app.run(main)
