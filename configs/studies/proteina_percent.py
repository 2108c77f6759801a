"""How the share of equivariance error falls with training at each flow time: by model size and amount of data."""

from ml_collections import ConfigDict

from configs import flow_chains
from equiscale.studies.sweep import new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Share of the flow's loss from equivariance error, by flow time, model size and amount of data",
        "Training-dynamics paper, Figures 2 and 3 (Proteina)",
        base(scale),
    )
    config.made = "synthetic chains"
    models, fractions, seeds = {
        "cpu": (("micro", "tiny"), (0.05, 1.0), (0,)),
        "smoke": (("micro",), (1.0,), (0,)),
        "gpu": (("small", "60M"), (0.01, 1.0), (0,)),
        "paper": (("60M", "400M"), (0.001, 0.01, 1.0), (0, 1)),
    }[scale]
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("data.fraction", *fractions),
        one_field("seed", *seeds),
    )
    config.base.evaluation.instruments = ("times",)
    return config


def base(scale: str) -> ConfigDict:
    """The config that runs of these studies start from. Paper scale needs the PDB: set `base.data.folder`."""
    config = flow_chains.get_config({"cpu": "cpu", "smoke": "smoke"}.get(scale, "60M"))
    if scale == "cpu":
        config.training.steps, config.evaluation.points = 400, 7
    if scale == "gpu":
        config.data.length, config.data.buckets, config.training.batch_size = 128, 1, 16
        config.training.steps, config.evaluation.points = 20_000, 20
    return config
