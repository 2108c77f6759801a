"""The quickstart: a small VoxMol U-Net denoising real molecules, with and without rotation augmentation.

`preset` picks the scale: "cpu" (minutes on 2 cores), "gpu" (VoxMol tiny at the published 0.25 angstrom, one
accelerator), "smoke" (seconds; for tests). Any other field can be overridden beside it, e.g.
`--config.preset=gpu --config.training.steps=20000`.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels

PRESETS = {"cpu": "cpu", "gpu": "tiny", "smoke": "smoke"}


def get_config(preset: str = "cpu") -> ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    config = denoise_voxels.get_config(PRESETS[preset])
    config.preset = preset
    del config.augmentation
    config.translation = 0.0
    # Of the curvature in the report: random vectors, and Hessian products with each.
    config.evaluation.curvature_probes, config.evaluation.curvature_steps = 3, 20
    if preset == "smoke":
        config.evaluation.curvature_probes, config.evaluation.curvature_steps = 2, 3
    if preset == "gpu":  # the published learning rate is for some 400,000 steps
        config.training.steps, config.training.batch_size, config.training.learning_rate = 10_000, 32, 2e-4
    # Labels of the report, with what each arm turns its training molecules by (tasks/augmentations.py).
    config.arms = {"with augmentation": "cube", "without augmentation": "none"}
    return config
