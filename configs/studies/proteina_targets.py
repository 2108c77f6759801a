"""Are targets averaged over unknown turns worth it? Loss, equivariance and variance of the gradient, by target."""

from ml_collections import ConfigDict

from configs.studies.proteina_percent import base
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Flow matching with plain and with Rao-Blackwell targets, and without turned data",
        "none: the targets are this project's",
        base(scale),
    )
    config.made = "synthetic chains"
    model, n_seeds = {"cpu": ("micro", 2), "smoke": ("micro", 1), "gpu": ("small", 2), "paper": ("60M", 2)}[scale]
    config.base.model.preset = model
    config.axes = (
        Axis(
            "target",
            {
                "plain": {"target": "plain"},
                "Rao-Blackwell": {"target": "rao_blackwell"},
                "data as it is": {
                    "target": "plain",
                    "augmentation": "none",
                    "evaluation.instruments": ("times",),  # nothing is averaged over turns that do not occur
                },
            },
        ),
        one_field("seed", *range(n_seeds)),
    )
    config.base.evaluation.instruments = ("times", "gradient_noise")
    if scale == "cpu":  # they take longer than training
        config.base.evaluation.points = 5
    return config
