"""Condition numbers of the Hessians of both loss components, of the force head and the network before it, early on."""

from ml_collections import ConfigDict

from configs.studies.escaip_percent import base
from equiscale.studies.sweep import Measurement, new_config, one_field

STEP = 500


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        f"Hessians of the twirled and of the equivariance loss after {STEP} steps",
        "Training-dynamics paper, section 3.4 and Figure 1C (EScAIP)",
        base(scale),
    )
    step, molecules, n_seeds = {"cpu": (STEP, 4, 2), "smoke": (4, 1, 1)}.get(scale, (STEP, 64, 3))
    if scale == "cpu":
        config.base.model.preset = "cpu_0.1M"
    config.base.model.output_multiplier = 1
    config.base.training.steps = step
    config.axes = (one_field("seed", *range(n_seeds)),)
    # Beyond cpu scale these are 33,408 parameters: two matrices of 17,658 rows, half an hour to diagonalise.
    flags = {"only": "force_head/weight,force_head/network/*", "molecules": molecules, "most": 20_000}
    config.measurements = (Measurement("spectrum", flags, f"spectrum/step-{step}.json"),)
    return config
