"""Parameters that a run starts from: those of the U-Net of a finished run of denoise_voxels."""

import json
import pathlib
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from equiscale.training.checkpoints import restore_params
from equiscale.training.run_folder import flat
from experiments.config import read_run

SAME = ("model.preset", "grid.elements", "grid.resolution", "grid.radius")  # or the parameters mean other things
# Which molecules are held out follows from these.
SPLIT = ("seed", "translation", "grid.length", "data.folder", "data.limit", "data.max_heavy_atoms", "data.validation")


def read_encoder(config: ConfigDict) -> Any:
    """The parameters of the run `config.encoder.run`, `averaged` or raw, for the U-Net of this config.

    A run of other molecules or seed is said in a warning: it may have trained on what is held out here.
    Raises FileNotFoundError for a folder without a run, ValueError naming both for a run of another task, network or
    grid, and naming the steps for one that is not finished.
    """
    folder = pathlib.Path(config.encoder.run)
    theirs = read_run(folder)
    if theirs.task != "denoise_voxels" or "arms" in theirs:
        raise ValueError(f"encoder.run={folder} holds {theirs.task}: give the folder of one run of denoise_voxels")
    there, here = (dict(flat(json.loads(json.dumps(c.to_dict())))) for c in (theirs, config))
    for field in SAME:
        if there[field] != here[field]:
            raise ValueError(
                f"encoder.run={folder} was trained with {field} {there[field]!r}, and this run has {here[field]!r}: "
                "give them the same"
            )
    step, params = restore_params(folder, averaged=config.encoder.averaged)
    if step < theirs.training.steps:
        raise ValueError(f"encoder.run={folder} is at step {step} of {theirs.training.steps}: finish it first")
    other = [field for field in SPLIT if there[field] != here[field]]
    if other:
        logging.warning(
            "%s had other %s: it may have been trained on molecules held out here", folder, ", ".join(other)
        )
    return params
