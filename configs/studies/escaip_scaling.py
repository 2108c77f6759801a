"""Laws of size and data for plain and for equivariant force fields: which falls faster, and which is worth its cost?"""

from ml_collections import ConfigDict

from configs.studies.escaip_percent import EQUAL_START, base
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Scaling laws of a graph transformer and of tensor products, on one task",
        "Training-dynamics paper, its loss penalty and efficiency gap, by size and data",
        base(scale),
    )
    sizes, fractions, n_seeds = {
        "cpu": (("cpu_0.008M", "cpu_0.02M", "cpu_0.1M"), (0.1, 1.0), 1),
        "smoke": (("cpu_0.02M",), (1.0,), 1),
        "gpu": (("cpu_0.1M", "cpu_0.4M", "1M", "4M"), (0.03, 0.1, 0.3, 1.0), 2),
        "paper": (("cpu_0.4M", "1M", "4M", "6M"), (0.001, 0.01, 0.1, 1.0), 3),
    }[scale]
    plain = {f"plain, {size}": {"model.preset": size, **EQUAL_START, "augmentation": "haar"} for size in sizes}
    tensors = {f"tensor products, {size}": {"model.preset": f"tensor_{size}"} for size in sizes}
    config.axes = (
        Axis("model", plain | tensors),
        one_field("data.fraction", *fractions),
        one_field("seed", *range(n_seeds)),
    )
    if scale != "cpu":  # where so few steps are bounded by them, and no law of the data is to be seen
        config.fit = ("parameters", "examples")
    else:
        config.base.training.steps, config.base.evaluation.points = 200, 4
    return config
