"""How the share of equivariance error falls with training: by model size, amount of data and augmentation.

`get_config(scale)`: "cpu" (minutes on 2 cores, 16³ grids), "gpu" (hours), "paper" (published sizes and steps), "smoke"
(seconds, for tests).
"""

from ml_collections import ConfigDict

from configs import denoise_voxels
from equiscale.studies.sweep import one_field

SCALES = ("cpu", "gpu", "paper", "smoke")


def get_config(scale: str = "cpu") -> ConfigDict:
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is none of {', '.join(SCALES)}")
    config = ConfigDict()
    config.scale = scale
    config.title = "Share of the loss from equivariance error, by size, data and augmentation"
    config.reproduces = "Training-dynamics paper, Figure 3 (VoxMol) and section 3"
    config.base = denoise_voxels.get_config({"cpu": "cpu", "smoke": "smoke"}.get(scale, "tiny"))
    config.base.evaluation.instruments = ()
    models, fractions, seeds = {
        "cpu": (("cpu_0.3M",), (0.1, 1.0), (0, 1)),
        "smoke": (("cpu_0.3M",), (0.5, 1.0), (0,)),
        "gpu": (("tiny", "small"), (0.1, 1.0), (0, 1)),
        "paper": (("tiny", "small", "full"), (0.01, 0.1, 0.25, 0.5, 1.0), (0, 1, 2)),
    }[scale]
    augmentations = ("cube", "none") if scale != "paper" else ("cube", "euler", "none")
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("data.fraction", *fractions),
        one_field("augmentation", *augmentations),
        one_field("seed", *seeds),
    )
    if scale == "cpu":
        config.base.training.steps = 200
    return config
