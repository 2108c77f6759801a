"""An equivariant network, or a plain one with more work when it is used? A trained model, averaged and posed.

    python -m experiments.symmetrise --workdir=runs/points
    python -m experiments.symmetrise --workdir=runs/forces --step=347 --averaged
    python -m experiments.symmetrise --workdir=runs/chains --molecules=16 --measure='so3.coset(12, n=2)'

--workdir is the folder of one run whose input has points (denoise_points, force_field, predict_quantities,
flow_chains). On its validation molecules the plain model stands beside its averages over 4, 12, 24 and 60 rotations,
its frame average (4 passes) and its canonical pose (1 pass): loss, paired difference to the plain loss, time, what is
left of the equivariance error by --measure, and whether the output jumps along random paths of the points. Of force
fields that break equivariance in their head alone, the exact average over all rotations (1 pass) too.

Prints a table and writes symmetrise.json, symmetrise.csv and symmetrise.png into the run folder.
"""

import pathlib

from absl import app, flags
from tqdm import tqdm

from equiscale.studies import symmetrisers
from equiscale.studies.alternatives import RESULT
from equiscale.studies.report import write_csv
from equiscale.studies.symmetriser_figures import symmetrisers_figure, symmetrisers_table
from equiscale.tasks.measure_names import parse_measure
from equiscale.training.checkpoints import restore_params
from equiscale.training.run_folder import versions, write_json
from experiments.config import command, read_run
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", False, "the exponential average of the parameters instead of the raw ones")
MEASURE = flags.DEFINE_string("measure", "so3.haar(8)", "rotations by which what is left is measured")
MOLECULES = flags.DEFINE_integer("molecules", None, "validation molecules (default: as in training)", lower_bound=1)


def main(argv):
    with command(argv):
        run(pathlib.Path(WORKDIR.value))


def run(workdir: pathlib.Path) -> None:
    config = read_run(workdir)
    points = symmetrisers.points_of(config.task)
    measure = parse_measure(MEASURE.value)
    if MOLECULES.value is not None:
        config.evaluation.molecules = MOLECULES.value
    experiment = load_experiment(config)
    step, params = restore_params(workdir, STEP.value, averaged=AVERAGED.value)
    methods = symmetrisers.methods_for(experiment.task.symmetry, points)
    if config.task == "force_field":
        methods |= symmetrisers.head_average(experiment.model)
    found = symmetrisers.measure(
        experiment.task, params, methods, points, measure=measure, progress=lambda todo: tqdm(todo, unit="method")
    )
    name = f"{experiment.task.name}, {config.model.preset}, {step:,} steps"
    found = {
        "title": f"{name}: {found['n_examples']} validation molecules",
        "step": step,
        "averaged": AVERAGED.value,
        **found,
        "versions": versions(),
    }
    write_json(workdir / RESULT, found)
    write_csv(workdir / "symmetrise.csv", found["rows"])
    symmetrisers_figure(found).savefig(workdir / "symmetrise.png", dpi=150)
    print(f"\n{found['title']}; {found['device']}, batches of {found['batch']}\n\n{symmetrisers_table(found)}")
    print(f"\nNumbers: {workdir / RESULT} and .csv; figure: symmetrise.png beside them")


if __name__ == "__main__":
    app.run(main)
