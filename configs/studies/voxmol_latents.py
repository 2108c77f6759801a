"""Do latents turn with the molecule? Cosines by axis and angle, fitted representations, probes, by size and data."""

from ml_collections import ConfigDict

from configs import denoise_voxels
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import Measurement, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Latents of turned molecules",
        "Training-dynamics paper, Figure 9; arXiv 2507.09753, Figure 6",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    models, molecules = {
        "cpu": (("cpu_0.06M", "cpu_0.3M"), 50),
        "smoke": (("cpu_0.02M",), 10),
        "gpu": (("tiny", "small"), 400),
        "paper": (("tiny", "small", "full"), 1_000),
    }[scale]
    config.axes = (one_field("model.preset", *models, name="model"), one_field("augmentation", "cube", "none"))
    config.base.training.keep = 0  # latents are measured along training
    if scale == "cpu":
        config.base.training.steps = 200
        config.base.evaluation.points = 4  # measuring latents takes longer than these steps
    config.measurements = (Measurement("latents", {"molecules": molecules}, "latents.json"),)
    return config
