"""How the share of equivariance error falls with training: by model size, amount of data and augmentation."""

from ml_collections import ConfigDict

from configs import denoise_voxels
from equiscale.studies.sweep import new_config, one_field

BASE = {"cpu": "cpu", "gpu": "tiny", "paper": "tiny", "smoke": "smoke"}  # presets of the task, by scale
FRACTIONS = (0.01, 0.1, 0.25, 0.5, 1.0)


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Share of the loss from equivariance error, by size, data and augmentation",
        "Training-dynamics paper, Figure 3 (VoxMol) and section 3",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    models, fractions, augmentations, seeds = {
        "cpu": (("cpu_0.06M", "cpu_0.3M"), FRACTIONS, ("cube",), (0,)),
        "smoke": (("cpu_0.02M",), (0.5, 1.0), ("cube", "none"), (0,)),
        "gpu": (("tiny", "small"), FRACTIONS, ("cube", "none"), (0, 1)),
        "paper": (("tiny", "small", "full"), FRACTIONS, ("cube", "euler", "none"), (0, 1, 2)),
    }[scale]
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("data.fraction", *fractions),
        one_field("augmentation", *augmentations),
        one_field("seed", *seeds),
    )
    config.fit = ("parameters", "examples") if scale == "paper" else ("examples",)
    if scale == "cpu":
        config.base.training.steps, config.base.evaluation.points = 120, 4
    return config
