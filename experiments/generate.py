"""Generate molecules with a trained denoiser of voxels: walk-jump sampling, from noise or from real molecules.

    python -m experiments.generate --workdir=runs/full --chains=100 --steps=500 --jumps=2
    python -m experiments.generate --workdir=runs/cpu --chains=20 --steps=100
    python -m experiments.generate --workdir=runs/full --seeds_from=validation --rotations=24
    python -m experiments.generate --workdir=runs/full --seeds_from=validation --noise=turned --name=turned

Takes the averaged parameters where the run keeps an average. Each chain walks among noisy densities and every --steps
steps jumps to a clean one, whose peaks are atoms. Seeded, a chain starts from a validation molecule turned by one of
the cube's rotations, with noise of its own or, by --noise=turned, with the noise turned along: then an exactly
equivariant model gives exactly turned molecules. At the published noise, 0.9, the walk is the published one; at
another it is the same in units of the noise.

WORKDIR/generated/NAME receives molecules.npz (positions in angstrom from the grid's centre, species, and of each its
chain, seed, rotation and step), molecules.sdf (with bonds, where RDKit finds them possible) and generate.json
(settings, counts, versions). Killed, it goes on from the last jump when started again with the same settings; stopped
by SIGTERM, it saves first.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import equiscale as es
from equiscale.data import peaks
from equiscale.data.chemistry import write_sdf
from equiscale.data.molecules import Skipped
from equiscale.data.peaks import Found, find_atoms, to_molecules
from equiscale.rotations import cube
from equiscale.sampling import walk_jump
from equiscale.sampling.chains import Sampler, Schedule, walk_batches, write_arrays
from equiscale.sampling.walk_jump import State, Walk
from equiscale.tasks.molecule_sets import Experiment, structures
from equiscale.tasks.voxels import densities
from equiscale.training.checkpoints import restore_params
from equiscale.training.devices import evaluation_mesh, everywhere, make_mesh
from equiscale.training.interrupt import Stopped, StopRequest
from equiscale.training.run_folder import open_run, versions, write_json
from experiments.config import command, read_run
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

NAME = flags.DEFINE_string("name", None, "folder under WORKDIR/generated (default: samples, or seeded with seeds)")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", None, "averaged parameters or raw ones (default: averaged where there are)")
CHAINS = flags.DEFINE_integer("chains", None, "chains from noise (default: 100)", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 500, "steps of a walk before each jump", lower_bound=1)
JUMPS = flags.DEFINE_integer("jumps", 2, "jumps of each chain", lower_bound=1)
WARMUP = flags.DEFINE_integer("warmup", 0, "further steps of each chain before its first walk", lower_bound=0)
BATCH = flags.DEFINE_integer("batch", 20, "chains walked at once: bounds the memory", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "of all random numbers")
SEEDS_FROM = flags.DEFINE_enum("seeds_from", None, ["validation"], "start from these molecules instead of from noise")
SEEDS = flags.DEFINE_integer("seeds", None, "how many of them (default: as measured in training)", lower_bound=1)
ROTATIONS = flags.DEFINE_enum("rotations", "24", ["1", "4", "24"], "turns of each: none, about z, all of the cube's")
NOISE = flags.DEFINE_enum("noise", "independent", ["independent", "turned"], "of the turned chains of one molecule")
THRESHOLD = flags.DEFINE_float("threshold", peaks.THRESHOLD, "least density of an atom at its peak")
MAX_ATOMS = flags.DEFINE_integer("max_atoms", 200, "a density with more peaks is no molecule", lower_bound=1)
DELTA = flags.DEFINE_float("delta", 0.5, "time of a step")
FRICTION = flags.DEFINE_float("friction", 1.0, "of a step")
LIPSCHITZ = flags.DEFINE_float("lipschitz", None, "1 / variance of the velocity (default: (0.9 / sigma)^2)")


class Chains(NamedTuple):
    """Where each of n chains starts: `noise` its noise's id, `seed` and `rotation` indices, -1 where from nothing."""

    noise: np.ndarray
    seed: np.ndarray
    rotation: np.ndarray


def main(argv):
    with command(argv):
        run(pathlib.Path(WORKDIR.value))


def run(workdir: pathlib.Path) -> None:
    config = read_run(workdir)
    seeded = SEEDS_FROM.value is not None
    refuse_what_does_not_go_together(seeded)
    if SEEDS.value is not None:
        config.evaluation.molecules = SEEDS.value
    walk = walk_jump.in_units_of(config.noise_sigma)._replace(delta=DELTA.value, friction=FRICTION.value)
    walk = walk if LIPSCHITZ.value is None else walk._replace(lipschitz=LIPSCHITZ.value)
    walk_jump.check(walk)
    averaged = config.training.ema_decay > 0 if AVERAGED.value is None else AVERAGED.value
    step, params = restore_params(workdir, CHECKPOINT.value, averaged=averaged)
    experiment = load_experiment(config, "denoise_voxels")

    turns = rotations(int(ROTATIONS.value)) if seeded else np.eye(3)[None]
    chains = from_seeds(len(experiment.validation), len(turns)) if seeded else from_noise(CHAINS.value or 100)
    schedule = Schedule(STEPS.value, JUMPS.value, WARMUP.value)
    asked = {
        "checkpoint": step,
        "averaged": averaged,
        "chains": len(chains.seed),
        **schedule._asdict(),
        "walk": walk._asdict(),
        "seeds_from": SEEDS_FROM.value,
        "rotations": len(turns),
        "noise": NOISE.value,
        "threshold": THRESHOLD.value,
        "max_atoms": MAX_ATOMS.value,
        "batch": BATCH.value,
        "seed": SEED.value,
    }
    folder = workdir / "generated" / (NAME.value or ("seeded" if seeded else "samples"))
    try:
        open_run(folder, asked)
    except ValueError as error:
        raise ValueError(f"{error}; or give these samples another --name") from error
    kind = "averaged" if averaged else "raw"
    source = f"{len(experiment.validation):,} molecules in {len(turns)} orientations" if seeded else "noise"
    print(f"step {step:,}, {kind} parameters; {len(chains.seed):,} chains of {schedule.length:,} steps from {source}")
    if not (folder / "generate.json").exists():
        batches = in_batches(chains, BATCH.value)
        sampler = make_sampler(experiment, params, walk, turns, batches)
        with StopRequest() as stop:
            found = walk_batches(sampler, len(batches), schedule, folder / "parts", lambda: stop.requested)
        if found is None:
            logging.warning("asked to stop: the chains are saved in %s; start again to go on", folder)
            raise Stopped(0)
        found = jax.tree.map(lambda a: a[: len(chains.seed) * schedule.jumps], found)
        write(found, chains, turns, schedule, experiment, asked, folder)
    shutil.rmtree(folder / "parts", ignore_errors=True)  # only needed to go on
    print(summary(folder))


def refuse_what_does_not_go_together(seeded: bool) -> None:
    if seeded and CHAINS.value is not None:
        raise ValueError("--chains counts chains from noise: with --seeds_from there are --seeds times --rotations")
    if not seeded and (SEEDS.value is not None or NOISE.value == "turned"):
        raise ValueError("--seeds and --noise=turned are for chains from molecules: give --seeds_from=validation too")


def rotations(n: int) -> np.ndarray:
    """`n` of the cube's rotations, identity first: 24 all, 4 those about z by 0, 90, 180, 270 degrees, 1 none."""
    if n == 24:
        return cube()
    about_z = cube()[cube()[:, 2, 2] == 1]
    return about_z[np.argsort(np.arctan2(about_z[:, 1, 0], about_z[:, 0, 0]) % (2 * np.pi))][:n]


def from_seeds(n_seeds: int, n_rotations: int) -> Chains:
    """Every seed in every orientation, of which all share the seed's noise where that is turned along."""
    seed, rotation = (a.ravel() for a in np.mgrid[:n_seeds, :n_rotations])
    return Chains(seed if NOISE.value == "turned" else np.arange(seed.size), seed, rotation)


def from_noise(n: int) -> Chains:
    return Chains(np.arange(n), np.full(n, -1), np.full(n, -1))


def in_batches(chains: Chains, size: int) -> list[Chains]:
    """All of one size: the last is filled up with its last chain."""
    n = len(chains.seed)
    rows = [np.arange(first, first + size).clip(max=n - 1) for first in range(0, n, size)]
    return [Chains(*(a[r] for a in chains)) for r in rows]


def turned_noise(key, chain, shape):
    """The noise of a chain's id, turned as the chain is."""
    noise, g = chain
    return es.grid(g, walk_jump.normal(key, noise, shape))


def make_sampler(experiment: Experiment, params: Any, walk: Walk, turns, batches: Sequence[Chains]) -> Sampler:
    """Each batch of chains is spread over the devices as far as these divide it."""
    predict, grid = experiment.task.predict, experiment.grid
    mesh = evaluation_mesh(make_mesh(), BATCH.value)
    params, seeds = everywhere(params, mesh), structures(experiment.validation)
    key, turns = jax.random.key(SEED.value), jnp.asarray(turns, jnp.float32)
    draw = turned_noise if NOISE.value == "turned" else walk_jump.normal

    @jax.jit
    def start(chains: Chains) -> State:
        if SEEDS_FROM.value is None:
            return walk_jump.start(key, chains.noise, grid.shape, walk)
        g = turns[chains.rotation]
        clean = jax.vmap(es.grid)(g, densities(grid, seeds.positions[chains.seed], seeds.species[chains.seed]))
        ids = (chains.noise, g) if draw is turned_noise else chains.noise
        return walk_jump.start_from(key, ids, clean, walk, draw)

    @functools.partial(jax.jit, donate_argnums=1)
    def advance(params, state, n_steps):
        return walk_jump.walk(functools.partial(predict, params), state, n_steps, key, walk, draw)

    @jax.jit
    def find(params, state):
        clean = walk_jump.jump(functools.partial(predict, params), state)
        return find_atoms(clean, grid, max_atoms=MAX_ATOMS.value, threshold=THRESHOLD.value)

    def place(state: State) -> State:
        layouts = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        return jax.tree.map(lambda a: jax.device_put(a, layouts[a.ndim > 0]), state)

    return Sampler(
        start=lambda b: start(batches[b]),
        place=place,
        advance=lambda state, n_steps: jax.block_until_ready(advance(params, state, n_steps)),
        find=lambda state: jax.tree.map(np.asarray, find(params, state)),
    )


def write(found: Found, chains: Chains, turns, schedule: Schedule, experiment: Experiment, asked, folder) -> None:
    """molecules.npz, molecules.sdf and, when all else is there, generate.json."""
    molecules, report = to_molecules(found, source="walk-jump sampling")
    chain, jump = np.divmod(np.array(molecules.names, int), schedule.jumps)  # the names are rows of `found`
    where = {"chain": chain, "seed": chains.seed[chain], "rotation": chains.rotation[chain]}
    where["step"] = schedule.step_of(jump)
    told = {name: row for name, row in where.items() if chains.seed[0] >= 0 or name in ("chain", "step")}
    names = [
        " ".join(f"{name} {value}" for name, value in zip(told, row, strict=True))
        for row in zip(*told.values(), strict=True)
    ]
    molecules = dataclasses.replace(molecules, names=tuple(names))
    width = molecules.n_atoms.max(initial=1)
    arrays = {"positions": molecules.positions[:, :width], "species": molecules.species[:, :width], **where}
    seed_names = np.array(experiment.validation.names if chains.seed[0] >= 0 else (), str)
    write_arrays(folder / "molecules.npz", **arrays, rotations=turns, seed_names=seed_names)
    sdf = write_sdf(folder / "molecules.sdf", molecules)
    whole = found.finite & ~found.overflow
    counts = {
        "jumps": report.total,
        "molecules": report.kept,
        "left_out": report.reasons,
        "chains_with_a_molecule": len(np.unique(chain)),
        "mean_atoms": float(molecules.n_atoms.mean()) if len(molecules) else None,
        "mean_atoms_trained_on": float(experiment.molecules.train.n_atoms.mean()),
        "peaks_too_near_a_stronger_one": int(found.n_clashes[whole].sum()),
        "fits_not_done": int((found.last_step[whole] > peaks.TOLERANCE).sum()),
        "sdf": {"written": sdf.kept, "left_out": sdf.reasons},
    }
    write_json(folder / "generate.json", {"settings": asked, "counts": counts, "versions": versions()})


def summary(folder: pathlib.Path) -> str:
    """What generate.json says, in a few lines."""
    made = json.loads((folder / "generate.json").read_text())
    counts, n_chains = made["counts"], made["settings"]["chains"]
    share = counts["chains_with_a_molecule"] / n_chains
    lines = [
        f"{share:.1%} of {n_chains:,} chains gave a molecule",
        f"densities at jumps: {Skipped(counts['molecules'], counts['left_out'])}",
    ]
    if counts["molecules"]:
        lines += [
            f"{counts['mean_atoms']:.1f} atoms on average, of those trained on {counts['mean_atoms_trained_on']:.1f}",
            f"{counts['peaks_too_near_a_stronger_one']:,} peaks dropped as too near a stronger one, "
            f"{counts['fits_not_done']:,} fits of positions not done",
        ]
    lines.append(f"SDF: {Skipped(counts['sdf']['written'], counts['sdf']['left_out'])}")
    return "\n".join([*lines, f"{folder}: molecules.npz, molecules.sdf, generate.json"])


if __name__ == "__main__":
    app.run(main)
