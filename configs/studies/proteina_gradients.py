"""Does the gradient of the equivariance loss vanish with that loss, at every flow time?"""

from ml_collections import ConfigDict

from configs.studies.proteina_percent import base
from equiscale.studies.sweep import new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Gradient-norm ratio and loss ratio of equivariance and twirled error, by flow time",
        "Training-dynamics paper, Figure 8 (Proteina)",
        base(scale),
    )
    config.made = "synthetic chains"
    model, n_seeds = {"cpu": ("micro", 2), "smoke": ("micro", 1), "gpu": ("60M", 1), "paper": ("60M", 1)}[scale]
    config.axes = (one_field("model.preset", model, name="model"), one_field("seed", *range(n_seeds)))
    config.base.evaluation.instruments = ("gradients_by_time",)
    if scale == "cpu":
        config.base.evaluation.points = 9
    return config
