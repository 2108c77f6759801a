"""Condition numbers of the Hessians of both loss components, of the flow's linear head, early on."""

from ml_collections import ConfigDict

from configs.studies.proteina_percent import base
from equiscale.studies.sweep import Measurement, new_config, one_field

STEP = 500


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        f"Hessians of the twirled and of the equivariance loss of the flow's head after {STEP} steps",
        "Training-dynamics paper, section 3.4 (Proteina), whose 1.5 thousand parameters these are at scale",
        base(scale),
    )
    config.made = "synthetic chains"
    step, chains, n_seeds = {"cpu": (STEP, 8, 3), "smoke": (4, 1, 1)}.get(scale, (STEP, 4, 3))
    if scale != "smoke":
        config.base.model.preset = "tiny" if scale == "cpu" else "60M"
        config.base.evaluation.points = 3
    config.base.training.steps = step
    config.axes = (one_field("seed", *range(n_seeds)),)
    config.measurements = (
        Measurement("spectrum", {"only": "head/*", "molecules": chains}, f"spectrum/step-{step}.json"),
    )
    return config
