"""Put molecules on disk as tasks read them: any number, without ever holding all of them in memory.

    python -m experiments.prepare_data --output=sets/qm9 qm9.tar.xz
    python -m experiments.prepare_data --output=sets/mine conformers/ more.sdf.gz
    python -m experiments.prepare_data --output=sets/md --compounds=frame trajectory.xyz
    python -m experiments.train --workdir=runs/qm9 --config.data.folder=sets/qm9 --config.data.buckets=3

Reads SDF, MOL, XYZ and extended XYZ (coordinates in angstrom): files, folders of them, gzipped ones, tar archives. Bad
entries (unknown element, coordinate that is not finite, damaged file) are left out, counted by reason, and the first of
each reason is shown. Training and validation never share a compound, which by default is a chemical formula.
"""

import itertools
import pathlib

from absl import app, flags
from tqdm import tqdm

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

FRAMES = itertools.count()
LABELS = {
    "formula": lambda name, numbers: formula(numbers),
    "name": lambda name, numbers: name,
    "frame": lambda name, numbers: str(next(FRAMES)),
}


def main(argv):
    try:
        run(named(argv), pathlib.Path(OUTPUT.value))
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise app.UsageError(str(error)) from error


def run(inputs: list[pathlib.Path], output: pathlib.Path) -> None:
    records = (r for path in inputs for r in tqdm(read_molecules(path), desc=path.name, unit="molecule"))
    source = ", ".join(path.name for path in inputs)
    molecules, report = write_molecules(output, records, source, LABELS[COMPOUNDS.value], FirstOfEach())
    longest = molecules.n_atoms.max()
    print(f"{report}\n{output}: {len(molecules):,} molecules of up to {longest} atoms, {megabytes(output)}")


if __name__ == "__main__":
    app.run(main)
