"""Denoising molecules as points: the molecules, splits and augmentations of denoise_voxels, without voxels.

`preset` picks the scale, with networks of as many parameters as those of denoise_voxels at the same preset: "cpu"
(minutes on 2 cores), "tiny", "small", "full" (7M, 28M and 111M parameters, for accelerators), "smoke" (seconds; for
tests). Any other field can be overridden beside it, e.g. `--config.preset=tiny --config.measure='so3.coset(12, n=2)'`.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels

# Transformers of about as many parameters as the U-Nets of denoise_voxels.
SAME_SIZE = {
    "cpu_0.02M": "cpu_0.02M",
    "cpu_0.06M": "cpu_0.06M",
    "cpu_0.3M": "cpu_0.3M",
    "cpu_1M": "cpu_1M",
    "tiny": "7M",
    "small": "28M",
    "full": "111M",
}


def get_config(preset: str = "cpu") -> ConfigDict:
    config = denoise_voxels.get_config(preset)  # data, split, augmentation and evaluation steps are the same
    config.task = "denoise_points"
    config.model.preset = SAME_SIZE[config.model.preset]
    # Only molecules that fit this grid are taken, so that both tasks have the same; a long one takes them all.
    del config.grid.radius
    config.noise_sigma = 0.3  # angstrom, a quarter of a bond's length
    config.centred_noise = True  # noise without its mean over a molecule's atoms, which is a mere translation
    # Which rotations the loss is averaged over: by default those of the voxel task.
    config.measure = "octahedral.enumerate()"
    config.training.clip = 1.0
    if preset == "cpu":
        config.training.steps, config.training.batch_size = 1_000, 16
        config.training.learning_rate, config.training.warmup = 1e-3, 50
    elif preset != "smoke":  # a U-Net's rate is too low for a transformer, and without warm-up a higher one diverges
        config.training.learning_rate, config.training.warmup, config.training.b1 = 2e-4, 1_000, 0.9
    return config
