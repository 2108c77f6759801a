"""What can spherical networks tell apart, and is it expressiveness or broken symmetry? Two tests with their controls.

    python -m experiments.expressiveness
    python -m experiments.expressiveness --networks=est_published,tfn --degrees=1 --folds=2,3 --seeds=3
    python -m experiments.expressiveness --degrees=1,2,3,5 --points=64      # an hour on 2 cores
    python -m experiments.expressiveness --degrees=1,2,3,5 --folds=2,3,5,10,100 --points=128  # as published: on a GPU

The n-fold test: two stars of n spokes, turned against each other, are learned to be told apart; for degrees below n
no equivariant network can do better than 50 %. Beside the accuracy of the best and the last epoch stands that of the
trained network with its sampling points turned, which for an equivariant network is the same. And the cross product of
two vectors, which networks out of point-wise operations cannot represent: the share of its variance they explain.
Writes expressiveness.json and expressiveness.png into --output, and what it has found so far into rows.json and
cross_products.json, from where it goes on when started again.
"""

import pathlib

import jax
from absl import app, flags
from tqdm import tqdm

from equiscale.models.spherical_transformer import KINDS
from equiscale.studies import expressiveness
from equiscale.studies.expressiveness_figures import n_fold_figure
from equiscale.training.run_folder import write_json
from experiments.config import command, whole_numbers
from experiments.kept_rows import KeptRows

OUTPUT = flags.DEFINE_string("output", "runs/expressiveness", "folder to write")
NETWORKS = flags.DEFINE_list(
    "networks", ["est_published", "est_exact", "tfn", "mace"], "kinds, any of " + ", ".join(KINDS)
)
DEGREES = flags.DEFINE_list("degrees", ["1", "2"], "largest degrees L of the features")
FOLDS = flags.DEFINE_list("folds", ["2", "3", "5", "10"], "numbers of spokes")
SEEDS = flags.DEFINE_integer("seeds", 5, "trainings of each", lower_bound=2)
POINTS = flags.DEFINE_integer("points", 48, "sampling points of the networks that have some", lower_bound=4)
CHANNELS = flags.DEFINE_integer("channels", 8, "channels of the features", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", expressiveness.EPOCHS, "of each training", lower_bound=1)


def main(argv):
    with command(argv):
        unknown = [kind for kind in NETWORKS.value if kind not in KINDS]
        if unknown:
            raise ValueError(f"--networks: {', '.join(unknown)} is none of {', '.join(KINDS)}")
        degrees, folds = whole_numbers("degrees", DEGREES.value), whole_numbers("folds", FOLDS.value, least=2)
        networks = {kind: lambda degree, kind=kind: make(kind, degree) for kind in NETWORKS.value}
        output = pathlib.Path(OUTPUT.value)
        output.mkdir(parents=True, exist_ok=True)
        rows = measured(networks, degrees, folds, output)
        crossed = cross_products(degrees[0], output)
    write_json(output / "expressiveness.json", {"n_fold": rows, "cross_product": crossed})
    n_fold_figure(rows).savefig(output / "expressiveness.png", dpi=150)
    print("\nRight answers in %, best epoch / last / last with turned points; ± standard error over seeds")
    for row in rows:
        told = " / ".join(f"{100 * row[f]:.0f} ± {100 * row[f'{f}_stderr']:.0f}" for f in ("best", "final", "control"))
        forced = "" if row["possible"] else "   50 is a theorem"
        print(f"  {row['network']:<18} L = {row['degree']}, n = {row['n']:<4} {told}{forced}")
    print("\nExplained of the cross product's variance: " + ", ".join(f"{k} {v:.3f}" for k, v in crossed.items()))
    print(f"\nNumbers: {output / 'expressiveness.json'}; figure: {output / 'expressiveness.png'}")


def measured(networks, degrees, folds, output):
    settings = {"seeds": SEEDS.value, "points": POINTS.value, "channels": CHANNELS.value, "epochs": EPOCHS.value}
    kept = KeptRows(output / "rows.json", settings)
    found = expressiveness.n_fold_table(
        networks,
        degrees,
        folds,
        n_seeds=SEEDS.value,
        epochs=EPOCHS.value,
        skip=kept.has,
        progress=lambda todo: tqdm(todo, desc="n-fold test", unit="network"),
    )
    for row in found:
        kept.add(row)
    return sorted(kept.rows, key=lambda row: (list(KINDS).index(row["network"]), row["degree"], row["n"]))


def cross_products(degree, output):
    """The share that each network explains, in the order of --networks."""
    kept = KeptRows(output / "cross_products.json", {"points": POINTS.value, "channels": CHANNELS.value})
    for kind in tqdm(NETWORKS.value, desc="cross product", unit="network"):
        of = {"network": kind, "degree": degree}
        if not kept.has(of):
            explained = float(expressiveness.cross_product(make(kind, degree), jax.random.key(0)))
            kept.add(of | {"explained": explained})
    found = {row["network"]: row["explained"] for row in kept.rows if row["degree"] == degree}
    return {kind: found[kind] for kind in NETWORKS.value}


def make(kind: str, degree: int):
    return expressiveness.make(kind, degree, POINTS.value, CHANNELS.value)


if __name__ == "__main__":
    app.run(main)
