"""Does a steerable network pay? The same task, data and number of parameters; loss at equal steps, FLOP and time.

`get_config(scale)`: "cpu" (minutes on 2 cores, 16³ grids), "gpu" (hours), "paper" (published sizes and steps), "smoke"
(seconds, for tests).
"""

from ml_collections import ConfigDict

from configs import denoise_voxels
from equiscale.studies.sweep import Axis, one_field

SCALES = ("cpu", "gpu", "paper", "smoke")


def get_config(scale: str = "cpu") -> ConfigDict:
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is none of {', '.join(SCALES)}")
    config = ConfigDict()
    config.scale = scale
    config.title = "A plain and a steerable U-Net at equal parameters"
    config.reproduces = "arXiv 2507.09753, VoxMol against its E3NN"
    config.base = denoise_voxels.get_config({"cpu": "cpu", "smoke": "smoke"}.get(scale, "tiny"))
    config.base.evaluation.instruments = ()
    plain, steerable = {
        "cpu": ("cpu_0.06M", "steerable_cpu_0.05M"),
        "smoke": ("cpu_0.06M", "steerable_cpu_0.02M"),
        "gpu": ("tiny", "steerable_2M"),
        "paper": ("tiny", "steerable_10M"),
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
        one_field("seed", *range({"smoke": 1, "cpu": 2, "gpu": 2, "paper": 3}[scale])),
    )
    if scale == "cpu":
        config.base.training.steps = 200
    return config
