"""Generate protein backbones with a trained flow, and measure them: geometry, folds, orientations.

    python -m experiments.generate_chains --workdir=runs/chains
    python -m experiments.generate_chains --workdir=runs/60M --lengths=50,100,150,200,250 --chains=500 --steps=400
    python -m experiments.generate_chains --workdir=runs/chains --ode --name=ode

Takes the averaged parameters where the run keeps an average. Chains are drawn from noise along the flow, with less
noise than keeps the distribution (--noise_scale, published 0.4) or none (--ode). WORKDIR/generated/NAME receives
chains.npz (positions in nm), pdb/*.pdb (C-alpha atoms in angstrom), a figure and generate.json: statistics of bonds,
clashes, size, secondary structure and handedness beside those of the chains that the run measured; TM-scores among the
samples (diversity) and to those chains (novelty); and whether the samples lie in all orientations alike, which a model
may do even where it errs at every point. Killed, it goes on from the last batch when started again with the same
settings.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from tqdm import tqdm

from equiscale.data.cache import read_arrays, write_arrays
from equiscale.data.chain_writer import write_pdb
from equiscale.data.chains import Chains
from equiscale.sampling import flow
from equiscale.studies import chain_samples
from equiscale.training.checkpoints import restore_params
from equiscale.training.run_folder import open_run, versions, write_json
from experiments.config import command, read_run, whole_numbers
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

NAME = flags.DEFINE_string("name", "samples", "folder under WORKDIR/generated")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", None, "averaged parameters or raw ones (default: averaged where there are)")
CHAINS = flags.DEFINE_integer("chains", 100, "chains to generate, of all lengths together", lower_bound=8)
LENGTHS = flags.DEFINE_list("lengths", None, "residues, as many chains of each (default: what the run was trained on)")
STEPS = flags.DEFINE_integer("steps", 400, "steps of the flow", lower_bound=1)
GRID = flags.DEFINE_enum("grid", "log", list(flow.GRIDS), "of the steps' times: fine near the data, or even")
NOISE_SCALE = flags.DEFINE_float("noise_scale", 0.4, "of the noise on the way; 1 keeps the distribution", lower_bound=0)
ODE = flags.DEFINE_bool("ode", False, "no noise on the way, and no score")
SELF_CONDITIONING = flags.DEFINE_bool("self_conditioning", False, "each step sees what the one before has guessed")
BATCH = flags.DEFINE_integer("batch", 20, "chains at once: bounds the memory", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "of all random numbers")


def main(argv):
    with command(argv):
        run(pathlib.Path(WORKDIR.value))


def run(workdir: pathlib.Path) -> None:
    config = read_run(workdir)
    averaged = config.training.ema_decay > 0 if AVERAGED.value is None else AVERAGED.value
    step, params = restore_params(workdir, CHECKPOINT.value, averaged=averaged)
    experiment = load_experiment(config, "flow_chains")
    measured = experiment.measured
    lengths = [measured.index.shape[1]] if LENGTHS.value is None else whole_numbers("lengths", LENGTHS.value, least=4)
    sampling = flow.Sampling(STEPS.value, GRID.value, None if ODE.value else NOISE_SCALE.value, SELF_CONDITIONING.value)
    flow.times_of(sampling)
    asked = {"checkpoint": step, "averaged": averaged, "chains": CHAINS.value, "lengths": lengths, "seed": SEED.value}
    asked |= sampling._asdict() | {"batch": BATCH.value}
    folder = workdir / "generated" / NAME.value
    try:
        open_run(folder, asked)
    except ValueError as error:
        raise ValueError(f"{error}; or give these samples another --name") from error
    print(
        f"step {step:,}, {'averaged' if averaged else 'raw'} parameters; {CHAINS.value:,} chains of {lengths} residues"
    )
    made = generate(experiment.task, params, lengths, sampling, folder)
    write_arrays(folder / "chains.npz", {"positions": made.positions, "index": made.index}, {"source": made.source})
    write_pdb(folder / "pdb", made)
    record = chain_samples.measure(made, measured, seed=SEED.value)
    write_json(folder / "generate.json", {"settings": asked, "measured": record, "versions": versions()})
    title = f"{len(made)} samples, step {step:,}, beside {len(measured)} of: {measured.source}"
    chain_samples.figure(made, measured, title).savefig(folder / "chains.png", dpi=150)
    print("\n".join(chain_samples.sentences(record)))
    print(f"{folder}: chains.npz, pdb/, chains.png, generate.json")


def generate(task, params, lengths: list[int], sampling: flow.Sampling, folder: pathlib.Path) -> Chains:
    """All chains, batch after batch; what is in the folder already is not made again."""
    key = jax.random.key(SEED.value)

    @jax.jit
    def batch_of(params, ids, index):
        begun = flow.start(key, ids, index, jnp.zeros(index.shape, bool))
        return flow.sample(lambda chain: task.predict(params, chain), begun, key, ids, sampling)

    longest, parts = max(lengths), []
    of_chains = np.array([lengths[i % len(lengths)] for i in range(CHAINS.value)])
    begins = [(n, rows[i : i + BATCH.value]) for n in lengths for rows in [np.flatnonzero(of_chains == n)]
              for i in range(0, len(rows), BATCH.value)]  # fmt: skip
    for number, (n, rows) in enumerate(tqdm(begins, desc="chains", unit="batch")):
        path = folder / "parts" / f"{number:05}.npz"
        if (found := read_arrays(path)) is None:
            ids = np.resize(rows, BATCH.value)  # the last batch is filled up: one program a length
            index = np.broadcast_to(np.arange(1, n + 1), (BATCH.value, n))
            positions = np.asarray(batch_of(params, jnp.asarray(ids), jnp.asarray(index)))[: len(rows)]
            path.parent.mkdir(exist_ok=True)
            write_arrays(path, {"positions": positions}, {"length": n})
            found = read_arrays(path)
        parts.append((rows, np.pad(found[0]["positions"], ((0, 0), (0, longest - n), (0, 0)))))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    positions = np.concatenate([x for _, x in parts])[order].astype(np.float32)
    if not np.isfinite(positions).all():
        raise ValueError("samples are not finite: the network's velocities run away; train longer or take more --steps")
    index = np.where(np.arange(longest) < of_chains[:, None], np.arange(1, longest + 1), 0).astype(np.int32)
    names = tuple(f"sample_{i:05}" for i in range(len(positions)))
    return Chains(positions, index, np.zeros(index.shape, bool), names, names, ("",) * len(names), "samples of a flow")


if __name__ == "__main__":
    app.run(main)
