"""Does a trained U-Net encode each orientation in a way of its own? Decoders of one orientation, tried on the others.

    python -m experiments.redundancy --workdir=runs/cpu
    python -m experiments.redundancy --workdir=runs/cpu --rotations=axes --steps=500
    python -m experiments.redundancy --workdir=runs/quickstart/none --start=trained --name=from_trained

--workdir is the folder of one run of experiments.train (for the quickstart, of one arm). Its encoder is frozen, all up
to the middle block and what it hands to the decoder. For each rotation a decoder is trained from fresh weights on
molecules turned by that alone, from the pose of their principal axes, then tried on all the others. The same is done
with the untrained network's encoder, and with one decoder for all rotations. The redundancy index is the loss on other
orientations over that on the decoder's own: 1 for an equivariant network. Turned back to the decoder's own orientation,
features of an equivariant encoder make it 1 whatever the decoder, so that what is left is the encoder's.

WORKDIR/redundancy/NAME receives redundancy.json, redundancy.png and the decoders. Started again with the same
settings, it goes on with those that are missing.
"""

import pathlib

import jax
from absl import app, flags

from equiscale.studies import redundancy, redundancy_figures, redundancy_study
from equiscale.training.checkpoints import restore_params
from equiscale.training.loop import untrained_params
from equiscale.training.run_folder import open_run, versions, write_json
from experiments.config import command, read_run, read_settings
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
AVERAGED = flags.DEFINE_bool("averaged", None, "averaged parameters or raw ones (default: averaged where there are)")
ROTATIONS = flags.DEFINE_enum("rotations", "z", list(redundancy_study.ROTATIONS), "quarter turns: about z, or all axes")
START = flags.DEFINE_enum("start", "fresh", ["fresh", "trained"], "weights that decoders start from")
STEPS = flags.DEFINE_integer("steps", 150, "training steps of each decoder", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "of the decoders (default: as in training)")
MOLECULES = flags.DEFINE_integer("molecules", 100, "validation molecules, or as many as there are", lower_bound=2)
SEED = flags.DEFINE_integer("seed", 0, "of the decoders' weights, batches and noise")
NAME = flags.DEFINE_string("name", None, "folder under WORKDIR/redundancy (default: that of --rotations)")


def main(argv):
    with command(argv):
        run(pathlib.Path(WORKDIR.value))


def run(workdir: pathlib.Path) -> None:
    """Train and try the decoders, write numbers and figure, and say what was found."""
    config = read_run(workdir)
    if "arms" in config and "arm" not in config:
        raise ValueError(
            f"{workdir} holds several arms: give one, --workdir={workdir}/{next(iter(config.arms.values()))}"
        )
    settings = read_settings(config)
    averaged = config.training.ema_decay > 0 if AVERAGED.value is None else AVERAGED.value
    step, trained = restore_params(workdir, STEP.value, averaged=averaged)
    asked = {
        "step": step,
        "averaged": averaged,
        "rotations": ROTATIONS.value,
        "start": START.value,
        "steps": STEPS.value,
        "learning_rate": LEARNING_RATE.value or settings.learning_rate,
        "molecules": MOLECULES.value,
        "seed": SEED.value,
    }
    folder = workdir / "redundancy" / (NAME.value or ROTATIONS.value)
    try:
        open_run(folder, asked)
    except ValueError as error:
        raise ValueError(f"{error}; or give this one another --name") from error
    with config.unlocked():
        config.augmentation = "none"
    config.evaluation.molecules = MOLECULES.value
    task = redundancy.in_pose(load_experiment(config, "denoise_voxels").task)
    fresh = jax.jit(task.init)(jax.random.key(SEED.value))
    found = redundancy_study.measure(
        task,
        settings._replace(steps=asked["steps"], learning_rate=asked["learning_rate"], seed=SEED.value),
        {"trained": trained, "untrained": untrained_params(task, settings)},
        redundancy_study.rotations(ROTATIONS.value),
        folder / "decoders",
        start=fresh if START.value == "fresh" else trained,
        own="trained",
        turn_back=redundancy_study.can_turn_back(trained),
    )
    write_json(folder / "redundancy.json", {"settings": asked, **found, "versions": versions()})
    title = (
        f"Decoders of one orientation on frozen encoders (trained: {step:,} steps)\n"
        f"{STEPS.value} steps from {START.value} weights, {found['n_molecules']} validation molecules"
    )
    redundancy_figures.matrices_figure(found, title).savefig(folder / "redundancy.png", dpi=150)
    print("\n" + "\n".join(redundancy_study.sentences(found)))
    print(f"\n{folder}: redundancy.json, redundancy.png")


if __name__ == "__main__":
    app.run(main)
