"""The task, data and model that a run's config asks for."""

import functools

from equiscale.tasks import (
    denoise_points,
    denoise_voxels,
    flow_chains,
    force_field,
    predict_properties,
    predict_quantities,
)
from experiments.config import use_cache
from experiments.encoders import read_encoder

# Modules with `from_config`; each has a file of its name in configs/.
TASKS = {
    "denoise_voxels": denoise_voxels,
    "denoise_points": denoise_points,
    "predict_properties": predict_properties,
    "force_field": force_field,
    "flow_chains": flow_chains,
    "predict_quantities": predict_quantities,
}


def load_experiment(config, only: str | None = None):
    """The task, data and model of a run's config. Raises ValueError if its task is not the `only` one that will do."""
    if config.task not in TASKS:
        raise ValueError(f"task {config.task!r} is none of {', '.join(TASKS)}")
    if only is not None and config.task != only:
        raise ValueError(f"this command is for runs of {only}, and this run's task is {config.task}")
    augmentation = config.augmentation if "augmentation" in config else config.arm  # of an arm of the quickstart
    starts = "encoder" in config and config.encoder.run  # from another run's parameters, read when they are needed
    given = {"encoder": functools.partial(read_encoder, config)} if starts else {}
    return TASKS[config.task].from_config(config, augmentation, cache_dir=str(use_cache()), **given)
