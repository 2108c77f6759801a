"""Are rotations learned easily because of voxels? The same molecules as densities on a grid and as points."""

from ml_collections import ConfigDict

from configs import denoise_points, denoise_voxels
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "The same molecules as voxels (U-Net) and as points (transformer), about as many parameters",
        "arXiv 2507.09753, its open question whether rotations are learned easily because of voxels",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    sizes, augmentations, n_seeds = {  # presets of the U-Net
        "cpu": (("cpu_0.06M",), ("cube", "none"), 2),
        "smoke": (("cpu_0.02M",), ("cube", "none"), 1),
        "gpu": (("tiny",), ("cube", "none"), 2),
        "paper": (("tiny", "small"), ("cube", "euler", "none"), 3),
    }[scale]
    points = {"task": "denoise_points"}
    if scale == "cpu":
        config.base.training.steps, points["training.steps"] = 300, 1_500  # a step of points is that much shorter
    representations = {}
    for size in sizes:
        same = denoise_points.SAME_SIZE[size]
        suffix = f", {same}" if len(sizes) > 1 else ""
        representations[f"voxels{suffix}"] = {"model.preset": size}
        representations[f"points{suffix}"] = {**points, "model.preset": same}
    config.axes = (
        Axis("representation", representations),
        one_field("augmentation", *augmentations),
        one_field("seed", *range(n_seeds)),
    )
    return config
