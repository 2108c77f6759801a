"""What training molecules are turned by: nothing, the cube's rotations, the paper's 16, Haar, VoxMol's Euler angles."""

from ml_collections import ConfigDict

from configs import denoise_voxels
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Loss components by augmentation",
        "Training-dynamics paper, sections 3 and D.3 (VoxMol), which name two augmentations",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    n_seeds = {"cpu": 1, "smoke": 1, "gpu": 2, "paper": 3}[scale]
    augmentations = ("none", "cube") if scale == "smoke" else ("none", "cube", "paper16", "haar", "euler")
    config.axes = (one_field("augmentation", *augmentations), one_field("seed", *range(n_seeds)))
    if scale == "cpu":
        config.base.training.steps, config.base.evaluation.points = 100, 5
    return config
