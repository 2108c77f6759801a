"""Why are rotations learned first? Hessian spectra, a loss plane and equivariant subspaces of a run.

    python -m experiments.spectrum --workdir=runs/quickstart
    python -m experiments.spectrum --workdir=runs/forces --only='force_head/weight' --molecules=16
    python -m experiments.spectrum --workdir=runs/quickstart --step=90 --only='head/*' --molecules=2
    python -m experiments.spectrum --workdir=runs/quickstart --only='*' --density      # matrix-free: any size

Of a checkpoint the Hessians of mean and equivariance loss with respect to the parameters that --only matches, dense
and in float64, over the run's rotations, or over all there are where only a force head breaks symmetry (in closed
form); their spectra and condition numbers, with the noise floor of each; both losses on one plane along two
eigenvectors of the total loss (section 3.4 of the training-dynamics paper). And of plain U-Nets, for every arm, how far
the kernels are from those that commute with the cube, and what scaling that part does to the losses. --workdir is the
quickstart's folder, or that of any run. Writes spectrum/*.npz and *.json and PNG figures into it. Dense Hessians of the
quickstart's default 1,736 parameters take about two minutes on 2 cores; --density gives a spectral density instead, for
any number of parameters.
"""

import json
import pathlib

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tqdm import tqdm

from equiscale.curvature import MOST_DENSE
from equiscale.studies import curvature_study as study
from equiscale.studies import instrument_figures as figures
from equiscale.training.checkpoints import restore_params
from equiscale.training.loop import untrained_params
from experiments.config import command, read_run, read_settings
from experiments.tasks import load_experiment
from experiments.train import WORKDIR

ARM = flags.DEFINE_string("arm", None, "subfolder of the arm whose Hessians are made (default: the first)")
STEP = flags.DEFINE_integer("step", None, "training step of the checkpoint (default: the last)")
ONLY = flags.DEFINE_list("only", None, "path patterns of the parameters (default: the run's, curvature_of)")
MOLECULES = flags.DEFINE_integer("molecules", 1, "training examples the losses are taken on", lower_bound=1)
DENSITY = flags.DEFINE_bool("density", False, "a spectral density by Lanczos instead of dense Hessians")
PROBES = flags.DEFINE_integer("probes", 4, "random vectors of the density", lower_bound=1)
LANCZOS_STEPS = flags.DEFINE_integer("lanczos_steps", 30, "products a random vector", lower_bound=2)
MOST = flags.DEFINE_integer("most", MOST_DENSE, "parameters up to which Hessians are dense", lower_bound=1)
HALF_WIDTH = flags.DEFINE_integer("half_width", 8, "points of the plane each way from the checkpoint", lower_bound=1)


def main(argv):
    workdir = pathlib.Path(WORKDIR.value)
    with command(argv):
        config = read_run(workdir)
        whole = "arms" in config and "arm" not in config  # the quickstart's folder, with a run in each subfolder
        arms = list(config.arms.values()) if whole else [""]
        arm = ARM.value or arms[0]
        if arm not in arms:
            raise ValueError(f"--arm {arm!r} is none of {', '.join(arms) or 'a single run, which has no arms'}")
        if whole:
            with config.unlocked():
                config.arm = arm
        run(workdir, config, arm)


def run(workdir: pathlib.Path, config: ConfigDict, arm: str) -> None:
    task, folder = load_experiment(config).task, workdir / "spectrum"
    step, params = restore_params(workdir / arm, STEP.value)
    label = f"{arm}-{step}" if arm else f"step-{step}"
    only = ONLY.value or [config.evaluation.curvature_of]
    over = "SO(3) in closed form" if task.closed_components else task.symmetry.measure.name
    about = f"{MOLECULES.value} training example(s), {over}"
    if DENSITY.value:
        density(task, params, only, folder, label, about)
    else:
        dense(task, params, only, config.training.learning_rate, folder, label, about)
    if config.task == "denoise_voxels" and not config.model.preset.startswith("steerable"):
        folders = {label: workdir / arm for label, arm in config.arms.items()} if arm else {label: workdir}
        subspaces(task, untrained_params(task, read_settings(config)), folders, folder)


def density(task, params, only: list[str], folder: pathlib.Path, label: str, about: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"n_molecules": MOLECULES.value, "n_probes": PROBES.value, "n_steps": LANCZOS_STEPS.value}
    found = study.densities(
        task, params, only=only, **settings, progress=lambda probes: tqdm(probes, desc="Lanczos", unit="vector")
    )
    study.save_densities(folder / f"{label}-density.npz", found)
    title = f"{label}: Hessians of {', '.join(only)}, {about}"
    figures.density_figure(found, title).savefig(folder / f"{label}-density.png", dpi=150)
    for part, d in found.items():
        trace, error = d.trace
        print(f"{part}: largest {d.nodes.max():.4g}, trace {trace:.4g} ± {2 * error:.1g}, rank {d.effective_rank:.3g}")
    print(f"\nFigure: {folder / f'{label}-density.png'}")


def dense(task, params, only: list[str], rate: float, folder: pathlib.Path, label: str, about: str) -> None:
    found = study.dense(
        task,
        params,
        only=only,
        n_molecules=MOLECULES.value,
        learning_rate=rate,
        half_width=HALF_WIDTH.value,
        limit=MOST.value,
        progress=lambda items, what: tqdm(items, desc=what),
    )
    study.save_curvature(folder, label, found)
    n = len(found.spectra["mean"].eigenvalues)
    title = f"{label}: {n:,} parameters ({', '.join(only)}),\n{about}, float64"
    for name, figure in {
        "spectrum": figures.spectrum_figure({p: found.spectra[p] for p in study.PARTS}, title),
        "plane": figures.plane_figure(found.plane, title),
    }.items():
        figure.savefig(folder / f"{label}-{name}.png", dpi=150)
    for part, spectrum in found.spectra.items():
        print(f"{part}: {spectrum}")
    print(f"\nFigures: {folder / label}-spectrum.png, {folder / label}-plane.png")


def subspaces(task, untrained, runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    outside, knob = {}, {}
    scales = np.linspace(0, 1.5, 16).tolist()
    outside["untrained"] = study.symmetric_kernels(untrained)[1]
    for label, run in runs.items():
        params = restore_params(run)[1]
        parts, outside[label] = study.symmetric_kernels(params)
        knob[label] = study.knob(task, params, parts, scales, n_molecules=4)
    (folder / "subspace.json").write_text(json.dumps({"outside": outside, "knob": knob}, indent=2))
    lines = {label: (k["s"], k["mean"], k["equiv"]) for label, k in knob.items()}
    title = "Convolution kernels of the cube's symmetry, channels as scalars (E), 4 NCI validation molecules"
    figures.subspace_figure(outside, lines, title).savefig(folder / "subspace.png", dpi=150)
    print(f"Kernels: {folder / 'subspace.png'}")


if __name__ == "__main__":
    app.run(main)
