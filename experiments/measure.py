"""Measure a trained model's symmetry: any checkpoint, raw or averaged parameters, any measure, more molecules.

    python -m experiments.measure --workdir=runs/cpu
    python -m experiments.measure --workdir=runs/cpu --step=85 --measure='paper16()' --plug_in
    python -m experiments.measure --workdir=runs/quickstart/none --measure='octahedral.haar(10)' --molecules=200

--workdir is the folder of one run (for the quickstart, of one arm). Prints the decomposition of the validation loss
with its standard error and floor, and appends it to measured.jsonl there. Measures are written as in Python:
paper16(), group.measure(...).
"""

import json
import pathlib

import jax
from absl import app, flags, logging

import equiscale as es
from equiscale.training.checkpoints import restore_params
from experiments.config import parse_measure, read_run, use_cache
from experiments.train import TASKS, WORKDIR

STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", False, "the exponential average of the parameters instead of the raw ones")
MEASURE = flags.DEFINE_string("measure", "octahedral.enumerate()", "which group elements are averaged over")
PLUG_IN = flags.DEFINE_bool("plug_in", False, "the biased plug-in numbers that the papers print")
MOLECULES = flags.DEFINE_integer("molecules", None, "validation molecules (default: as in training)", lower_bound=1)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)  # of the libraries' own reports
    try:
        run(pathlib.Path(WORKDIR.value))
    except (FileNotFoundError, ValueError) as error:
        raise app.UsageError(str(error)) from error


def run(workdir: pathlib.Path) -> None:
    config = read_run(workdir)
    measure = parse_measure(MEASURE.value)
    if MOLECULES.value is not None:
        config.evaluation.molecules = MOLECULES.value
    augmentation = config.augmentation if "augmentation" in config else config.arm
    task = TASKS[config.task](config, augmentation, cache_dir=str(use_cache())).task
    step, params = restore_params(workdir, STEP.value, averaged=AVERAGED.value)
    sym = es.Symmetry(measure, task.symmetry.act_in, task.symmetry.act_out, task.symmetry.act_target)
    evaluate = jax.jit(lambda params, batch: task._replace(symmetry=sym).evaluate(params, batch, plug_in=PLUG_IN.value))
    d = sum(evaluate(params, batch) for batch in task.validation)
    d.check()
    row = {"step": step, "averaged": AVERAGED.value, **d.record()}
    with (workdir / "measured.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"step {step}{', averaged' if AVERAGED.value else ''}: {d}")


if __name__ == "__main__":
    app.run(main)
