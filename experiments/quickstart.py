"""How fast does a plain network learn rotations? Trains a voxel U-Net to denoise real molecules, and reports.

    python -m experiments.quickstart
    python -m experiments.quickstart --config.preset=gpu --workdir=runs/quickstart_gpu

Molecules are real compounds from the list that RDKit carries, with ETKDG conformers: nothing is downloaded. The
network is trained with and without rotation augmentation; its validation loss is decomposed over all 24 rotations
of the cube, exactly, at log-spaced steps. The run folder receives both arms' metrics and checkpoints, PNG figures and
a self-contained report.html. A run that is interrupted goes on when started again.
"""

import os
import pathlib
import shlex
import sys
import time

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from equiscale.studies import augmentation_report, curvature_study
from equiscale.tasks import denoise_voxels
from equiscale.training.devices import make_mesh
from equiscale.training.loop import train, untrained_params
from equiscale.training.run_folder import open_run, read_metrics
from equiscale.training.state import n_parameters
from experiments.config import define_config, read_config, read_instruments, read_settings, use_cache

CONFIG = define_config("quickstart")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "folder of the run; an interrupted one goes on")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)  # of the libraries' own reports
    config = read_config(CONFIG)
    run(config, pathlib.Path(WORKDIR.value))


def run(config, workdir: pathlib.Path) -> pathlib.Path:
    """Train every arm of `config` under `workdir` and write the report; returns its path."""
    began = time.time()
    cache = use_cache()
    open_run(workdir, config.to_dict())
    settings, mesh = read_settings(config)._replace(keep=None), make_mesh()

    folders, states = {}, {}
    for label, augmentation in config.arms.items():
        experiment = denoise_voxels.from_config(config, augmentation, cache_dir=str(cache))
        task = experiment.task
        if not folders:
            print("\n".join(experiment.reports), flush=True)
        folders[label] = augmentation
        folder = open_run(workdir / augmentation, {**config.to_dict(), "arm": augmentation})
        instruments = read_instruments(config, task, mesh)
        states[label] = train(task, settings, folder, title=label, mesh=mesh, instruments=instruments)
    params = {"untrained": untrained_params(task, settings)}
    params |= {label: state.params for label, state in states.items()}
    few = config.evaluation.instrument_molecules
    if not (workdir / "curvature.npz").exists():
        found = curvature_study.densities(
            task,
            states[next(iter(folders))].params,
            only=config.evaluation.curvature_of,
            n_molecules=few,
            n_probes=config.evaluation.curvature_probes,
            n_steps=config.evaluation.curvature_steps,
            progress=lambda probes: tqdm(probes, desc="curvature", unit="vector"),
        )
        curvature_study.save_densities(workdir / "curvature.npz", found)
    sample = denoise_voxels.sample_densities(task, experiment.grid, config.noise_sigma, config.seed, params)
    np.savez_compressed(workdir / "sample.npz", molecule=experiment.validation.names[0], **sample)
    report = augmentation_report.write(
        workdir,
        folders,
        facts={
            "task": f"denoising voxelised NCI molecules, {config.grid.length}³ grid of {config.grid.resolution:g} Å, "
            f"{n_parameters(params['untrained']):,} parameters",
            "molecules": f"{len(experiment.molecules.train):,} to train on, {len(experiment.validation)} for "
            "validation; " + "; ".join(experiment.reports),
            "gradients": f"{few} validation molecules x 24 rotations",
            "curvature": f"{few} training molecules x 24 rotations, parameters {config.evaluation.curvature_of}",
            "hardware": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
            "duration": f"{time.time() - began:.0f} s, this start",
        },
        command="python -m experiments.quickstart " + shlex.join(sys.argv[1:]),
    )
    sentences = augmentation_report.sentences({label: read_metrics(workdir / arm) for label, arm in folders.items()})
    print("\n" + " ".join(sentences) + f"\n\nReport: {report}")
    return report


if __name__ == "__main__":
    app.run(main)
