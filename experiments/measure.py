"""Measure a trained model's symmetry: any checkpoint, raw or averaged parameters, any measure, more molecules.

    python -m experiments.measure --workdir=runs/cpu
    python -m experiments.measure --workdir=runs/cpu --step=85 --measure='paper16()' --plug_in
    python -m experiments.measure --workdir=runs/quickstart/none --measure='octahedral.haar(10)' --molecules=200
    python -m experiments.measure --workdir=runs/cpu --by_element                  # rotation by rotation

--workdir is the folder of one run (for the quickstart, of one arm). Prints the decomposition of the validation loss
with its standard error and floor, and appends it to measured.jsonl there. Measures are written as in Python:
paper16(), group.measure(...). --by_element compares what is made of each turned input with what is made of the input as
it is, and with the bound that its reconstruction error is (Eq. 4 of arXiv 2507.09753), and writes by_element-STEP.csv.
"""

import json
import pathlib

import jax
import numpy as np
from absl import app, flags

import equiscale as es
from equiscale.studies.rotation_names import rotation_name
from equiscale.tasks.measure_names import parse_measure
from equiscale.training.checkpoints import restore_params
from experiments.config import command, read_run
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", False, "the exponential average of the parameters instead of the raw ones")
MEASURE = flags.DEFINE_string("measure", None, "which group elements are averaged over (default: the run's)")
PLUG_IN = flags.DEFINE_bool("plug_in", False, "the biased plug-in numbers that the papers print")
BY_ELEMENT = flags.DEFINE_bool("by_element", False, "the error of each group element too; needs an enumerated measure")
MOLECULES = flags.DEFINE_integer("molecules", None, "validation molecules (default: as in training)", lower_bound=1)


def main(argv):
    with command(argv):
        run(pathlib.Path(WORKDIR.value))


def run(workdir: pathlib.Path) -> None:
    config = read_run(workdir)
    chosen = None if MEASURE.value is None else parse_measure(MEASURE.value)
    if MOLECULES.value is not None:
        config.evaluation.molecules = MOLECULES.value
    task = load_experiment(config).task
    step, params = restore_params(workdir, STEP.value, averaged=AVERAGED.value)
    sym = es.Symmetry(
        chosen or task.symmetry.measure, task.symmetry.act_in, task.symmetry.act_out, task.symmetry.act_target
    )
    evaluate = jax.jit(lambda params, batch: task._replace(symmetry=sym).evaluate(params, batch, plug_in=PLUG_IN.value))
    d = sum(evaluate(params, batch) for batch in task.validation)
    d.check()
    row = {"step": step, "averaged": AVERAGED.value, **d.record()}
    with (workdir / "measured.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"step {step}{', averaged' if AVERAGED.value else ''}: {d}")
    if BY_ELEMENT.value:
        by_element(task._replace(symmetry=sym), params, workdir / f"by_element-{step}.csv")


def by_element(task, params, path: pathlib.Path) -> None:
    measure = jax.jit(task.reconstruction)
    found = sum((measure(params, batch) for batch in task.validation[1:]), measure(params, task.validation[0]))
    (share, share_error), (error, _) = found.share, found.equivariance
    turns = np.asarray(task.symmetry.measure.draw(None)).reshape(-1, 3, 3)
    lines = ["rotation,equivariance_error,share_of_bound,share_of_bound_stderr"]
    print(f"\nreconstruction error of inputs as they are (the bound): {found.bound:.4g}")
    print("equivariance error of turned ones, in percent of it:")
    for i in sorted(range(len(turns)), key=lambda i: share[i]):
        print(f"  {100 * share[i]:7.2f} ± {200 * share_error[i]:.2f} %   {rotation_name(turns[i])}")
        lines.append(f"{rotation_name(turns[i])},{error[i]},{share[i]},{share_error[i]}")
    path.write_text("\n".join(lines) + "\n")
    print(f"\n{path}")


if __name__ == "__main__":
    app.run(main)
