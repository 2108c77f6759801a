"""Are samples of a flow distributed alike in all orientations, whatever its error at each point? By augmentation."""

from ml_collections import ConfigDict

from configs.studies.proteina_percent import base
from equiscale.studies.sweep import Measurement, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Samples of a flow: pointwise equivariance error beside invariance of their distribution",
        "none: published are pointwise errors alone",
        base(scale),
    )
    config.made = "synthetic chains"
    model, chains, steps = {
        "cpu": ("tiny", 64, 50),
        "smoke": ("micro", 8, 3),
        "gpu": ("small", 500, 400),
        "paper": ("60M", 500, 400),
    }[scale]
    config.base.model.preset = model
    config.axes = (one_field("augmentation", "haar", "none"), one_field("seed", 0))
    flags = {"chains": chains, "steps": steps, "noise_scale": 1.0}
    config.measurements = (Measurement("generate_chains", flags, "generated/samples/generate.json"),)
    return config
