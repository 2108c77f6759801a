"""Put molecules on disk as tasks read them: any number, without ever holding all of them in memory.

    python -m experiments.prepare_data --output=sets/qm9 qm9.tar.xz
    python -m experiments.prepare_data --output=sets/mine conformers/ more.sdf.gz
    python -m experiments.prepare_data --output=sets/md --compounds=frame trajectory.xyz
    python -m experiments.prepare_data --output=sets/qm9 --properties=logp,tpsa \
        --labels=qm9.csv --label=gap=gap_Ha --label=dipole=dip_x,dip_y,dip_z qm9.tar.xz
    python -m experiments.train --workdir=runs/qm9 --config.data.folder=sets/qm9 --config.data.buckets=3

Reads SDF, MOL, XYZ and extended XYZ (coordinates in angstrom): files, folders of them, gzipped ones, tar archives. Bad
entries (unknown element, coordinate that is not finite, damaged file) are left out, counted by reason, and the first of
each reason is shown. Training and validation never share a compound, which by default is a chemical formula. Properties
and labels are stored with each molecule for predict_properties and predict_quantities; those that need bonds take some
20 ms each where the title is no SMILES.
"""

import itertools
import pathlib
from collections.abc import Callable

import numpy as np
from absl import app, flags
from tqdm import tqdm

from equiscale.data.labels import read_labels
from equiscale.data.molecules import Molecules
from equiscale.data.properties import QUANTITIES, check_names, measure
from equiscale.data.readers import read_molecules
from equiscale.data.stored_molecules import formula, write_molecules
from experiments.inputs import FirstOfEach, megabytes, named

OUTPUT = flags.DEFINE_string("output", None, "folder to write, which must not be there yet", required=True)
COMPOUNDS = flags.DEFINE_enum(
    "compounds",
    "formula",
    ["formula", "name", "frame"],
    "what counts as one compound: molecules of one formula, of one title in the file, or each by itself",
)

PROPERTIES = flags.DEFINE_list("properties", [], f"what to compute of each molecule: some of {', '.join(QUANTITIES)}")
TABLE = flags.DEFINE_string("labels", None, "CSV table whose first column names molecules by title or by file")
LABELS = flags.DEFINE_multi_string(
    "label",
    [],
    "NAME=COLUMN of the table, NAME=X,Y,Z of a vector, NAME=XX,XY,XZ,YY,YZ,ZZ of a symmetric tensor; repeated",
)

FRAMES = itertools.count()
COMPOUND = {
    "formula": lambda name, numbers: formula(numbers),
    "name": lambda name, numbers: name,
    "frame": lambda name, numbers: str(next(FRAMES)),
}


def main(argv):
    try:
        run(named(argv), pathlib.Path(OUTPUT.value))
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise app.UsageError(str(error)) from error


def columns() -> Callable[[Molecules], dict[str, np.ndarray]] | None:
    """What is stored of molecules besides, None if nothing is."""
    if bool(TABLE.value) != bool(LABELS.value):
        raise ValueError("--labels names a table and --label what of it: give both or neither")
    makers = []
    if PROPERTIES.value:
        check_names(PROPERTIES.value)
        makers.append(lambda molecules: measure(molecules, PROPERTIES.value)[0])
    if TABLE.value:
        pairs = [label.partition("=") for label in LABELS.value]
        makers.append(read_labels(TABLE.value, {name: of.split(",") for name, _, of in pairs}))
    if not makers:
        return None
    return lambda molecules: {name: values for make in makers for name, values in make(molecules).items()}


def run(inputs: list[pathlib.Path], output: pathlib.Path) -> None:
    records = (r for path in inputs for r in tqdm(read_molecules(path), desc=path.name, unit="molecule"))
    source = ", ".join(path.name for path in inputs)
    to_store = COMPOUND[COMPOUNDS.value], columns(), FirstOfEach()
    molecules, report = write_molecules(output, records, source, *to_store)
    longest = molecules.n_atoms.max()
    print(f"{report}\n{output}: {len(molecules):,} molecules of up to {longest} atoms, {megabytes(output)}")
    for name, values in molecules.columns.items():
        known = np.isfinite(values).reshape(len(values), -1).all(1).sum()
        print(f"{name}: known of {known:,}")


if __name__ == "__main__":
    app.run(main)
