"""Do latents learn to respect rotations? Measures a latent of a quickstart or of a single run along its training.

    python -m experiments.latents --workdir=runs/quickstart
    python -m experiments.latents --workdir=runs/quickstart --latent='*/down_2' --arms=cube --steps=0,85,500
    python -m experiments.latents --workdir=runs/tiny      # a run of experiments.train with --config.training.keep=0

For the untrained network and log-spaced checkpoints of each arm: how far the latent of a turned molecule is the turned
latent (cosines, by axis and angle), how far its mean over voxels stays the same (the published cosine), and how
fast that mean changes under small rotations (Lie derivative). For the untrained and the last also the linear maps
that best represent rotations on latents, and what linear probes read from them. A wrong --latent prints the nearest
names there are. The run folder receives latents.json, latents.png and latents_training.png.
"""

import pathlib

from absl import app, flags

from equiscale.studies import latent_figures, latent_study
from equiscale.training.run_folder import write_json
from experiments.config import command, read_run, use_cache

WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "folder of a quickstart or of a run")
LATENT = flags.DEFINE_string(
    "latent", None, "intermediate to measure, by name or glob; a cubic grid (default: bottleneck)"
)
ARMS = flags.DEFINE_list("arms", [], "arms to measure, by folder, e.g. cube,none; default: all")
STEPS = flags.DEFINE_list("steps", [], "checkpoints to measure, e.g. 0,85,500; default: the untrained and 4 others")
MOLECULES = flags.DEFINE_integer("molecules", 200, "molecules to measure on, held-out ones first", lower_bound=10)


def main(argv):
    with command(argv):
        if not all(step.isdigit() for step in STEPS.value):
            raise ValueError(f"--steps={','.join(STEPS.value)}: give whole numbers, e.g. --steps=0,85,500")
        run(pathlib.Path(WORKDIR.value))


def run(workdir: pathlib.Path) -> None:
    """Measure, write the numbers and the figures into `workdir`, and say what was found."""
    found = latent_study.measure_run(
        workdir,
        read_run(workdir),
        latent=LATENT.value,
        only=ARMS.value,
        steps=[int(step) for step in STEPS.value],
        n_molecules=MOLECULES.value,
        cache_dir=str(use_cache()),
    )
    write_json(workdir / "latents.json", found)
    latent_figures.cosines_figure(found).savefig(workdir / "latents.png", dpi=150)
    latent_figures.training_figure(found).savefig(workdir / "latents_training.png", dpi=150)
    print("\n" + "\n".join(latent_study.sentences(found)))
    print(f"\nNumbers: {workdir / 'latents.json'}; figures: latents.png and latents_training.png beside it")


if __name__ == "__main__":
    app.run(main)
