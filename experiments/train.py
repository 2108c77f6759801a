"""Train one model on one task, measuring its symmetry along the way.

    python -m experiments.train --workdir=runs/cpu
    python -m experiments.train --workdir=runs/tiny --config.preset=tiny --config.model.dtype=bfloat16
    python -m experiments.train --workdir=runs/none --config.augmentation=none
    python -m experiments.train --workdir=runs/mine --config=configs/denoise_voxels.py   # any file of configs/

The run folder receives config.json, versions.json, sizes.json (numbers of parameters and training examples),
metrics.jsonl (one row an evaluation: the decomposed validation loss of raw and averaged parameters, the components'
gradients, speed and where time went) and checkpoints. Started again with the same config, a run goes on; stopped by
SIGTERM, it saves first.

Devices: all of this process are used, batches are spread over them, and --config.training.fsdp=true spreads parameters
and optimiser state too. The batch size is that over all devices; their number changes no result beyond rounding.

    one GPU of several     CUDA_VISIBLE_DEVICES=0 python -m experiments.train ...
    one host, all GPUs     python -m experiments.train ...
    SLURM, several nodes   srun --ntasks-per-node=1 python -m experiments.train --distributed ...
    Cloud TPU, several     the same command on every worker, with --distributed
                           (gcloud compute tpus tpu-vm ssh NAME --worker=all --command=...)

All processes of a run share --workdir. Compiled programs are kept in $EQUISCALE_CACHE (~/.cache/equiscale).
"""

import pathlib

import jax
from absl import app, flags, logging

from equiscale.tasks.task import size_of
from equiscale.training.devices import make_mesh, start_processes
from equiscale.training.loop import train
from equiscale.training.run_folder import open_run, write_json
from equiscale.training.state import n_parameters, parameter_table
from experiments.config import define_config, read_config, read_instruments, read_settings
from experiments.tasks import load_experiment

CONFIG = define_config("denoise_voxels")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; an interrupted one goes on", required=True)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "join the other processes of this run (SLURM, Cloud TPU, MPI)")
TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "write the metrics to WORKDIR/tensorboard too")
PROFILE = flags.DEFINE_list(
    "profile", None, "FIRST,END: trace these steps into WORKDIR/profile (Perfetto, TensorBoard)"
)
flags.register_validator(
    "profile",
    lambda steps: (
        steps is None or (len(steps) == 2 and all(s.isdigit() for s in steps) and int(steps[0]) < int(steps[1]))
    ),
    message="give two steps, the first and the one after the last, as in --profile=100,105",
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)  # of the libraries' own reports
    if DISTRIBUTED.value:
        start_processes()
    run(read_config(CONFIG), pathlib.Path(WORKDIR.value))


def run(config, workdir: pathlib.Path) -> None:
    open_run(workdir, config.to_dict())
    experiment = load_experiment(config)
    settings = read_settings(config)
    if jax.process_index() == 0:
        if experiment.constants:
            write_json(workdir / "constants.json", dict(experiment.constants))
        print("\n".join(experiment.reports))
        params = jax.eval_shape(experiment.task.init, jax.random.key(0))
        examples = sum(map(size_of, experiment.task.train))
        write_json(workdir / "sizes.json", {"parameters": n_parameters(params), "examples": examples})
        print(parameter_table(params))
        print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)", flush=True)
    mesh = make_mesh()
    train(
        experiment.task,
        settings,
        workdir,
        title=experiment.task.name,
        mesh=mesh,
        instruments=read_instruments(config, experiment.task, mesh),
        tensorboard=TENSORBOARD.value,
        profile=None if PROFILE.value is None else tuple(map(int, PROFILE.value)),
    )


if __name__ == "__main__":
    app.run(main)
