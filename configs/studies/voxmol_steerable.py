"""Does a steerable network pay? Same task, same data, equal parameters; loss at equal steps, FLOP and time.

At cpu scale both start from small predictions. The larger plain ones start as published, from large ones: there budgets
of few steps favour the steerable network.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "A plain and a steerable U-Net of about the same number of parameters",
        "arXiv 2507.09753, VoxMol against its E3NN",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    plain, steerable, n_seeds = {
        "cpu": ("cpu_0.06M", "steerable_cpu_0.05M", 2),
        "smoke": ("cpu_0.02M", "steerable_cpu_0.02M", 1),
        "gpu": ("tiny", "steerable_10M", 2),
        "paper": ("tiny", "steerable_10M", 3),
    }[scale]
    config.axes = (
        Axis(
            "model",
            {
                "plain, turned data": {"model.preset": plain, "augmentation": "cube"},
                "plain, data as it is": {"model.preset": plain, "augmentation": "none"},
                "steerable": {"model.preset": steerable, "augmentation": "none"},
            },
        ),
        one_field("seed", *range(n_seeds)),
    )
    config.compare = ("plain, turned data", "steerable")
    if scale == "cpu":
        config.base.training.steps = 120
        config.base.evaluation.points, config.base.evaluation.at = 4, (0, 30, 60, 90)  # losses at equal time lie there
        config.base.evaluation.molecules = config.base.evaluation.batch_size = 12
    return config
