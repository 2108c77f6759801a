"""Laws of size and data of denoising, and of the share of it that is equivariance error: molecules as points."""

from ml_collections import ConfigDict

from configs import denoise_points
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Scaling laws of denoising molecules as points",
        "Training-dynamics paper, Figures 2 and 3, by law; without voxels, which take far longer",
        denoise_points.get_config(BASE.get(scale, "cpu")),
    )
    models, fractions, seeds = {
        "cpu": (("cpu_0.02M", "cpu_0.06M", "cpu_0.3M"), (0.01, 0.03, 0.1, 1.0), (0,)),
        "smoke": (("cpu_0.02M",), (0.5, 1.0), (0,)),
        "gpu": (("cpu_0.3M", "cpu_1M", "7M", "28M"), (0.01, 0.03, 0.1, 0.3, 1.0), (0, 1)),
        "paper": (("cpu_1M", "7M", "28M", "111M"), (0.001, 0.01, 0.1, 1.0), (0, 1, 2)),
    }[scale]
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("data.fraction", *fractions),
        one_field("seed", *seeds),
    )
    config.fit = ("parameters", "examples")
    if scale == "cpu":
        config.base.training.steps, config.base.evaluation.points = 1_500, 5
    return config
