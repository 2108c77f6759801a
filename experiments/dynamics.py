"""Does a force field keep the energy, and is it for its equivariance error that it does not?

    python -m experiments.dynamics --workdir=runs/forces
    python -m experiments.dynamics --workdir=runs/forces --breaking=0,1,3,10 --picoseconds=2 --xtb

--workdir is the folder of a run of configs/force_field.py. Validation molecules move at constant energy from thermal
velocities, under the model as it was trained and under models that differ from it in equivariance error alone:
--breaking s makes the force head's rows w_E + s w_perp, whose equivariance error is s^2 times the trained one and whose
loss once twirled is the same; 0 is the twirled model itself. Models without such a head move as they are. --xtb
evaluates the frames visited by GFN2-xTB, so that the energy is that of the real potential. Prints a table and writes
dynamics.json, trajectories and dynamics.png to WORKDIR/dynamics.
"""

import pathlib

import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

from equiscale.data import xtb
from equiscale.data.molecules import BadMolecule
from equiscale.models.graph_transformer import GraphTransformer
from equiscale.studies import energy_drift
from equiscale.studies.energy_drift_figures import drift_figure, drift_table
from equiscale.tasks.force_field import scores_of
from equiscale.training.checkpoints import restore_params
from equiscale.training.run_folder import write_json
from experiments.config import command, read_run
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", False, "the exponential average of the parameters instead of the raw ones")
BREAKING = flags.DEFINE_list("breaking", ["0", "1", "3"], "factors of the trained deviation from equivariance")
MOLECULES = flags.DEFINE_integer("molecules", 8, "validation molecules that move", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 300.0, "kelvin, of the velocities at the start", lower_bound=0)
PICOSECONDS = flags.DEFINE_float("picoseconds", 0.25, "length of each trajectory", lower_bound=0)
FEMTOSECONDS = flags.DEFINE_float("femtoseconds", 0.5, "length of a step", lower_bound=0)
FRAMES = flags.DEFINE_integer("frames", 50, "frames that are kept of each trajectory", lower_bound=2)
XTB = flags.DEFINE_bool("xtb", False, "the energy of the frames visited by GFN2-xTB too")
SEED = flags.DEFINE_integer("seed", 0, "of the velocities")


def main(argv):
    with command(argv):
        try:
            factors = [float(s) for s in BREAKING.value]
        except ValueError as error:
            raise ValueError(f"--breaking={','.join(BREAKING.value)}: give numbers, e.g. 0,1,3") from error
        run(pathlib.Path(WORKDIR.value), factors)


def run(workdir: pathlib.Path, factors: list[float]) -> None:
    config = read_run(workdir)
    experiment = load_experiment(config, "force_field")
    task, scale = experiment.task, experiment.scale
    step, params = restore_params(workdir, STEP.value, averaged=AVERAGED.value)
    graph = jax.tree.map(lambda *a: np.concatenate(a), *(rows.graph for rows in task.validation))
    if graph.shifts.any():
        raise ValueError("these structures repeat in space: this moves molecules only")
    weight = np.concatenate([rows.weight for rows in task.validation])
    rows = np.flatnonzero(weight)[: MOLECULES.value]
    start = energy_drift.begin(graph.positions[rows], graph.species[rows], TEMPERATURE.value, SEED.value)
    stride = max(round(1e3 * PICOSECONDS.value / FEMTOSECONDS.value / FRAMES.value), 1)
    settings = {"step": FEMTOSECONDS.value, "n_frames": FRAMES.value, "stride": stride}
    settings |= {"k": config.graph.neighbours, "cutoff": config.graph.cutoff}

    model = experiment.model
    arms = {"as it is": model}
    if isinstance(model, GraphTransformer) and model.forces == "direct":
        arms = {_name(s): model.clone(breaking=s * model.breaking) for s in factors}
    table, curves, kept = [], {}, {"species": start.species}
    folder = workdir / "dynamics"
    folder.mkdir(exist_ok=True)
    for name, arm in (bar := tqdm(arms.items(), desc="dynamics", unit="model")):
        bar.set_postfix_str(name)
        measured = _measure(task, arm, params, scale)
        found = energy_drift.run(arm, params, scale, start, **settings)
        row = {"arm": name, **measured, **energy_drift.statistics(found, start, _by_xtb if XTB.value else None)}
        table.append(row)
        curves[name] = (found.time, *energy_drift.mean_energy(found, start))
        kept |= {f"{name}: {field}": array for field, array in found._asdict().items()}
    flags_used = {"temperature": TEMPERATURE.value, "seed": SEED.value, "averaged": AVERAGED.value, **settings}
    write_json(folder / "dynamics.json", {"checkpoint": step, "settings": flags_used, "rows": table})
    np.savez_compressed(folder / "trajectories.npz", **kept)
    title = f"{task.name}, {config.model.preset}, step {step}: {len(rows)} molecules from {TEMPERATURE.value:g} K"
    drift_figure(table, curves, title).savefig(folder / "dynamics.png", dpi=150)
    print(drift_table(table))
    print(f"in percent, eV/angstrom and meV/atom/ps, ± two standard errors over {len(rows)} molecules")
    print(f"\nNumbers: {folder / 'dynamics.json'}; figure: dynamics.png beside it")


def _name(s: float) -> str:
    return {0.0: "twirled", 1.0: "as trained"}.get(s, f"{s:g} w_perp")


def _measure(task, model, params, scale) -> dict[str, float]:
    """Percent of equivariance error, sampled, and errors of the forces."""
    task = task._replace(predict=lambda params, graph: model.apply({"params": params}, graph).forces)
    evaluate, errors = jax.jit(task.evaluate), scores_of(model, scale)["errors"]
    measure = jax.jit(errors.measure)
    d = sum(evaluate(params, batch) for batch in task.validation)
    found = errors.record([jax.device_get(measure(params, batch)) for batch in task.validation])
    names = ("force_mae", "force_mae_stderr")
    return {"percent": float(d.percent), "percent_stderr": float(d.percent_stderr)} | {n: found[n] for n in names}


def _by_xtb(records) -> np.ndarray:
    """Energies in eV, NaN where GFN2-xTB gives none."""
    labelled = xtb.labelled(tqdm(records, desc="GFN2-xTB", unit="frame", leave=False))
    return np.array([np.nan if isinstance(record, BadMolecule) else record.energy for record in labelled])


if __name__ == "__main__":
    app.run(main)
