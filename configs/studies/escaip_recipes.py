"""Is it the recipe? The share of equivariance error by model size, optimiser, learning rate and batch size."""

from ml_collections import ConfigDict

from configs.studies.escaip_percent import base
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Share of the force loss from equivariance error, by model size and optimiser",
        "Training-dynamics paper, section 4 and appendix D.1 (sizes, optimisers, batch size 1)",
        base(scale),
    )
    models, recipes, seeds = {
        "cpu": (("cpu_0.02M", "cpu_0.1M"), ("published", "rate x 0.2", "batch of 1", "sgd", "lion"), (0,)),
        "smoke": (("cpu_0.02M",), ("published", "sgd"), (0,)),
        "gpu": (("1M", "4M"), ("published", "rate x 5", "rate x 0.2", "batch of 1", "sgd", "lion"), (0, 1)),
        "paper": (("1M", "4M", "6M"), ("published", "rate x 5", "rate x 0.2", "batch of 1", "sgd", "lion"), (0, 1, 2)),
    }[scale]
    rate = config.base.training.learning_rate
    known = {
        "published": {},
        "rate x 5": {"training.learning_rate": 5 * rate},
        "rate x 0.2": {"training.learning_rate": rate / 5},
        "batch of 1": {"training.batch_size": 1},
        "sgd": {"training.optimizer": "sgd", "training.learning_rate": 10 * rate},  # its steps shrink with the gradient
        "lion": {"training.optimizer": "lion", "training.learning_rate": rate / 5},  # its steps are signs
    }
    config.axes = (
        one_field("model.preset", *models, name="model"),
        Axis("recipe", {name: known[name] for name in recipes}),
        one_field("seed", *seeds),
    )
    config.base.evaluation.instruments = ("scores",)
    return config
