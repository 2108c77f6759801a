"""How equivariant are untrained spherical networks on real molecules? By kind, layers and sampling points.

    python -m experiments.exactness                        # RDKit's bundled compounds
    python -m experiments.exactness qm9.tar.xz --molecules=1000 --layers=1,2,3,4,5,6 --points=32,48,64  # an hour
    python -m experiments.exactness --networks=est_exact,tfn --layers=1 --points=48 --molecules=20

Of energies mean |f(x) - f(R x)|, absolute and over the standard deviation of f over molecules, and of forces the norm
of what does not turn, relative. Files may be SDF or XYZ, in archives too. Writes exactness.csv and exactness.png into
--output, and what it has found so far into rows.json, from where it goes on when started again.
"""

import itertools
import pathlib

import jax
import jax.numpy as jnp
from absl import app, flags
from tqdm import tqdm

from equiscale.data import nci
from equiscale.data.buckets import bucket_lengths, bucket_rows
from equiscale.data.molecules import BadMolecule, from_records_skipping
from equiscale.data.neighbours import build
from equiscale.data.readers import read_molecules
from equiscale.studies import exactness
from equiscale.studies.report import write_csv
from experiments.config import command, use_cache, whole_numbers
from experiments.inputs import FirstOfEach, named
from experiments.kept_rows import KeptRows

OUTPUT = flags.DEFINE_string("output", "runs/exactness", "folder to write")
NETWORKS = flags.DEFINE_list("networks", ["est_published", "est_exact", "tfn"], "kinds of networks")
LAYERS = flags.DEFINE_list("layers", ["1", "3"], "numbers of layers")
POINTS = flags.DEFINE_list("points", ["32", "94"], "numbers of sampling points")
MOLECULES = flags.DEFINE_integer("molecules", 48, "molecules, the first ones there are", lower_bound=2)
INITS = flags.DEFINE_integer("inits", 4, "initialisations", lower_bound=2)
ROTATIONS = flags.DEFINE_integer("rotations", 2, "rotations of each molecule", lower_bound=1)
CHANNELS = flags.DEFINE_integer("channels", 16, "channels of the features", lower_bound=1)
DEGREE = flags.DEFINE_integer("degree", 2, "largest degree L of the features", lower_bound=1)
CUTOFF = 5.0  # angstrom
MANY, BUCKETS = 200, 4  # molecules from which on padding costs more than programs for several sizes, and these


def main(argv):
    with command(argv[:1]):
        layers, points = whole_numbers("layers", LAYERS.value), whole_numbers("points", POINTS.value)
        molecules, told = read(argv) if len(argv) > 1 else made()
        print(told)
        output = pathlib.Path(OUTPUT.value)
        output.mkdir(parents=True, exist_ok=True)
        rows = measured(molecules, layers, points, output)
    write_csv(output / "exactness.csv", rows)
    exactness.figure(rows, f"{len(molecules)} molecules of {molecules.source}").savefig(
        output / "exactness.png", dpi=150
    )
    print("\nMean |f(x) - f(R x)|, absolute and over the spread of f; forces, relative; ± standard error")
    for row in rows:
        values = "   ".join(f"{row[f]:.1e} ± {row[f'{f}_stderr']:.0e}" for f in ("energy", "relative", "forces"))
        sampled = f"{row['points']} points" if row["points"] else "no points"
        print(f"  {row['network']:<18} {row['layers']} layers, {sampled:<12} {values}")
    print(f"\nNumbers: {output / 'exactness.csv'}; figure: {output / 'exactness.png'}")


def measured(molecules, layers, points, output):
    sizes = bucket_lengths(molecules.n_atoms, BUCKETS if len(molecules) >= MANY else 1)
    graphs = []
    for rows, width in zip(bucket_rows(molecules.n_atoms, sizes), sizes, strict=True):
        few = molecules.subset(rows)
        graph, edges = build(few.positions[:, :width], few.species[:, :width], k=max(width - 1, 1), cutoff=CUTOFF)
        print(f"{len(few)} molecules of up to {width} atoms, neighbours: {edges}")
        graphs.append(jax.tree.map(jnp.asarray, graph))
    settings = {
        "molecules": len(molecules),
        "inits": INITS.value,
        "rotations": ROTATIONS.value,
        "channels": CHANNELS.value,
        "degree": DEGREE.value,
        "source": molecules.source,
    }
    kept = KeptRows(output / "rows.json", settings)
    found = exactness.measure(
        NETWORKS.value,
        layers,
        points,
        graphs,
        n_inits=INITS.value,
        n_rotations=ROTATIONS.value,
        skip=kept.has,
        progress=lambda todo: tqdm(todo, unit="network"),
        cutoff=CUTOFF,
        channels=CHANNELS.value,
        hidden=2 * CHANNELS.value,
        degree=DEGREE.value,
    )
    for row in found:
        kept.add(row)
    return sorted(kept.rows, key=lambda row: (row["network"], row["points"], row["layers"]))


def read(argv):
    """The first molecules of files, and what was left out."""
    tell = FirstOfEach()

    def readable():
        for record in itertools.chain.from_iterable(map(read_molecules, named(argv))):
            if isinstance(record, BadMolecule):
                tell(record)
            else:
                yield record

    few = itertools.islice(readable(), MOLECULES.value)
    return from_records_skipping(few, ", ".join(pathlib.Path(path).name for path in argv[1:]))


def made():
    settings = {"limit": MOLECULES.value, "max_heavy_atoms": 9, "cache_dir": str(use_cache())}
    return nci.load(("H", "C", "N", "O", "F"), **settings)


if __name__ == "__main__":
    app.run(main)
