"""Is it the recipe? The share of equivariance error by model size, learning rate and batch size."""

from ml_collections import ConfigDict

from configs.studies.escaip_percent import base
from equiscale.studies.sweep import new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Share of the force loss from equivariance error, by model size, learning rate and batch size",
        "Training-dynamics paper, section 4 and appendix D.1 (sizes, optimisers, batch size 1)",
        base(scale),
    )
    models, rates, batches, seeds = {
        "cpu": (("cpu_0.02M", "cpu_0.1M"), (1e-3, 5e-3), (16,), (0,)),
        "smoke": (("cpu_0.02M",), (1e-3, 3e-3), (4,), (0,)),
        "gpu": (("1M", "4M", "6M"), (1e-4, 1e-3), (64,), (0, 1)),
        "paper": (("1M", "4M", "6M"), (1e-5, 1e-4, 1e-3), (1, 64), (0, 1, 2)),
    }[scale]
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("training.learning_rate", *rates),
        one_field("training.batch_size", *batches),
        one_field("seed", *seeds),
    )
    config.base.evaluation.instruments = ("errors", "head")
    return config
