"""Is it only rotations? How equivariant a trained model is to groups that it was never shown.

    python -m experiments.symmetries --workdir=runs/cpu
    python -m experiments.symmetries --workdir=runs/quickstart/cube --steps=0,85,500
    python -m experiments.symmetries --workdir=runs/points --molecules=60 --averaged

--workdir is the folder of one run (for the quickstart, of one arm). For the untrained network and log-spaced
checkpoints, the validation loss is decomposed under rotations, reflections and translations, under exchanges of
elements, and under groups as large as the cube's that tear space apart, on the same noisy inputs (what each does to
input and target is written in symmetries.json). Without the wrong groups a low number for rotations says little.
Prints a table and writes symmetries.json and symmetries.png into the run folder.
"""

import pathlib

from absl import app, flags
from tqdm import tqdm

from equiscale.studies import cross_symmetry
from equiscale.studies.cross_symmetry_figures import symmetries_figure, symmetries_table
from equiscale.studies.latent_study import chosen_steps
from equiscale.training.checkpoints import restore_params
from equiscale.training.loop import untrained_params
from equiscale.training.run_folder import write_json
from experiments.config import command, read_run, read_settings
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

STEPS = flags.DEFINE_list("steps", [], "checkpoints to measure, e.g. 0,85,500; default: the untrained and 4 others")
AVERAGED = flags.DEFINE_bool("averaged", False, "the exponential average of the parameters instead of the raw ones")
MOLECULES = flags.DEFINE_integer("molecules", None, "validation molecules (default: as in training)", lower_bound=1)
REACH = flags.DEFINE_integer("reach", 1, "voxels that grids are shifted by at most", lower_bound=1)


def main(argv):
    with command(argv):
        if not all(step.isdigit() for step in STEPS.value):
            raise ValueError(f"--steps={','.join(STEPS.value)}: give whole numbers, e.g. --steps=0,85,500")
        run(pathlib.Path(WORKDIR.value), [int(step) for step in STEPS.value])


def run(workdir: pathlib.Path, wanted: list[int]) -> None:
    config = read_run(workdir)
    if MOLECULES.value is not None:
        config.evaluation.molecules = MOLECULES.value
    experiment = load_experiment(config)
    task, notes = experiment.task, list(experiment.reports)
    if config.task == "denoise_voxels":
        cases = cross_symmetry.voxel_cases(experiment.grid, REACH.value)
        share = cross_symmetry.wrapped_share(task.pair(task.validation[0]).y, REACH.value)
        notes.append(f"shifted by up to {REACH.value} voxel(s), {100 * share:.2g} % of the density crosses a face")
    else:
        n_atoms = task.validation[0].positions.shape[1]
        cases = cross_symmetry.point_cases(experiment.grid.elements, n_atoms)

    def params_at(step):
        if step == 0:  # not kept by every run
            return untrained_params(task, read_settings(config))
        return restore_params(workdir, step, averaged=AVERAGED.value)[1]

    bar = tqdm(chosen_steps(workdir, wanted, also=[0]), desc="symmetries", unit="checkpoint")
    rows = cross_symmetry.measure(task, cases, ((step, params_at(step)) for step in bar))
    found = {
        "title": f"{task.name}, {config.model.preset}: {rows[0]['n_examples']:.0f} validation molecules",
        "averaged": AVERAGED.value,
        "notes": notes,
        "acts": {name: case.acts for name, case in cases.items()},
        "rows": rows,
    }
    write_json(workdir / "symmetries.json", found)
    symmetries_figure(found).savefig(workdir / "symmetries.png", dpi=150)
    print("\n".join(notes) + "\n\n" + symmetries_table(found))
    print(f"\nNumbers: {workdir / 'symmetries.json'}; figure: symmetries.png beside it")


if __name__ == "__main__":
    app.run(main)
