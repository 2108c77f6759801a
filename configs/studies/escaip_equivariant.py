"""Does an equivariant force field pay? Same task, frames and start; loss and errors at equal steps, FLOP and time."""

from ml_collections import ConfigDict

from configs.studies.escaip_percent import EQUAL_START, base
from equiscale.studies import alternatives
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "A graph transformer, its equivariant twin, and tensor products of about the same number of parameters",
        "Training-dynamics paper, its loss penalty and efficiency gap, on one task",
        base(scale),
    )
    size, n_seeds = {"cpu": ("cpu_0.02M", 2), "smoke": ("cpu_0.02M", 1), "gpu": ("4M", 2), "paper": ("6M", 3)}[scale]
    plain, tensors = {"model.preset": size, **EQUAL_START}, {"model.preset": f"tensor_{size}"}
    config.axes = (
        Axis(
            "model",
            {
                "plain, turned data": {**plain, "augmentation": "haar"},
                "plain, data as it is": plain,
                "plain, twirled head": {**plain, "model.breaking": 0.0},
                "tensor products": tensors,
            },
        ),
        one_field("seed", *range(n_seeds)),
    )
    config.compare = ("plain, turned data", "tensor products")
    config.measurements = alternatives.measurements(config.compare[0])
    config.base.evaluation.instruments = ("scores",)
    return config
