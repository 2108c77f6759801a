"""Measure a trained model's symmetry: any checkpoint, raw or averaged parameters, any measure, more molecules.

    python -m experiments.measure --workdir=runs/cpu
    python -m experiments.measure --workdir=runs/cpu --step=85 --measure='paper16()' --plug_in
    python -m experiments.measure --workdir=runs/quickstart/none --measure='octahedral.haar(10)' --molecules=200
    python -m experiments.measure --workdir=runs/cpu --by_element                  # rotation by rotation
    python -m experiments.measure --workdir=runs/cpu --ensemble=runs/again,runs/once_more

--workdir is the folder of one run (for the quickstart, of one arm). Prints the decomposition of the validation loss
with its standard error and floor, and appends it to measured.jsonl there. Measures are written as in Python:
paper16(), group.measure(...). --by_element compares what is made of each turned input with what is made of the input as
it is, and with the bound that its reconstruction error is (Eq. 4 of arXiv 2507.09753), and writes by_element-STEP.csv.
--ensemble names runs that differ from it by chance, in their --config.training.seed: the loss that infinitely many of
them together would have is taken for irreducible, and equivariance error is told in percent of the rest, too.
"""

import json
import pathlib

import jax
import numpy as np
from absl import app, flags
from jax import Array
from ml_collections import ConfigDict

import equiscale as es
from equiscale.ensemble import irreducible
from equiscale.studies.rotation_names import rotation_name
from equiscale.tasks.measure_names import parse_measure
from equiscale.tasks.task import Params, Task
from equiscale.training.checkpoints import restore_params
from experiments.config import command, read_run, read_settings
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", False, "the exponential average of the parameters instead of the raw ones")
MEASURE = flags.DEFINE_string("measure", None, "which group elements are averaged over (default: the run's)")
PLUG_IN = flags.DEFINE_bool("plug_in", False, "the biased plug-in numbers that the papers print")
BY_ELEMENT = flags.DEFINE_bool("by_element", False, "the error of each group element too; needs an enumerated measure")
ENSEMBLE = flags.DEFINE_list("ensemble", [], "folders of other runs: percent of what all of them together leave")
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
    task = task._replace(symmetry=sym)
    known: list[dict] = [{}] * len(task.validation)
    if ENSEMBLE.value:
        known = [{"irreducible": left} for left in of_ensemble(config, task, params)]
        task = task._replace(irreducible_from=f"ensemble of {1 + len(ENSEMBLE.value)}")
    evaluate = jax.jit(lambda params, batch, known: task.evaluate(params, batch, plug_in=PLUG_IN.value, **known))
    d = sum(evaluate(params, batch, of) for batch, of in zip(task.validation, known, strict=True))
    d.check()
    row = {"step": step, "averaged": AVERAGED.value, **d.record()}
    with (workdir / "measured.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"step {step}{', averaged' if AVERAGED.value else ''}: {d}")
    if d.irreducible_from:
        share, error = d.percent_reducible, d.percent_reducible_stderr
        print(f"{share:.4g} +- {error:.1g} % of what lies above the irreducible loss ({d.irreducible_from})")
    if BY_ELEMENT.value:
        by_element(task, params, workdir / f"by_element-{step}.csv")


def of_ensemble(config: ConfigDict, task: Task, params: Params) -> list[Array]:
    """Of each validation batch the loss of each example that this run and those of --ensemble all together leave.

    Raises ValueError for a run of another task, for one of other data, which may have seen what is held out here, and
    for two that started alike.
    """
    models, starts = [(task.predict, params)], {read_settings(config).seed}
    for folder in map(pathlib.Path, ENSEMBLE.value):
        other = read_run(folder)
        advice = f"train the ensemble with --config.seed={config.seed} and a --config.training.seed of each run's own"
        if (other.seed, other.data.to_dict()) != (config.seed, config.data.to_dict()):
            raise ValueError(
                f"{folder} has seed {other.seed} and this run {config.seed}, or their data differ: it may have seen "
                f"what is held out here; {advice}"
            )
        if (start := read_settings(other).seed) in starts:
            raise ValueError(f"{folder} started like another of these runs, from training seed {start}; {advice}")
        starts.add(start)
        predict = load_experiment(other, only=config.task).task.predict
        models.append((predict, restore_params(folder, STEP.value, averaged=AVERAGED.value)[1]))

    def average(all_params, x):
        predictions = [predict(of, x) for (predict, _), of in zip(models, all_params, strict=True)]
        return jax.tree.map(lambda *parts: sum(parts) / len(parts), *predictions)

    @jax.jit
    def left(all_params, batch):
        members = [
            task._replace(predict=predict).evaluate(of, batch, per_example=True)
            for (predict, _), of in zip(models, all_params, strict=True)
        ]
        return irreducible(members, task._replace(predict=average).evaluate(all_params, batch, per_example=True))

    all_params = [of for _, of in models]
    return [left(all_params, batch) for batch in task.validation]


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
