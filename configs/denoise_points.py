"""Denoising molecules as points: the molecules, splits and augmentations of denoise_voxels, without voxels.

`preset` picks the scale, with networks of as many parameters as those of denoise_voxels at the same preset: "cpu"
(minutes on 2 cores), "tiny", "small", "full" (7M, 28M and 111M parameters, for accelerators), "smoke" (seconds; for
tests). Any other field can be overridden beside it, e.g. `--config.preset=tiny --config.measure='so3.coset(12, n=2)'`.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels

SIZES = {"cpu": "cpu_0.3M", "smoke": "cpu_0.06M", "tiny": "7M", "small": "28M", "full": "111M"}


def get_config(preset: str = "cpu") -> ConfigDict:
    config = denoise_voxels.get_config(preset)  # data, split, augmentation and evaluation steps are the same
    config.task = "denoise_points"
    config.model.preset = SIZES[preset]
    # Only molecules that fit this grid are taken, so that both tasks have the same; a long one takes them all.
    del config.grid.radius
    config.noise_sigma = 0.3  # angstrom, a quarter of a bond's length
    config.centred_noise = True  # noise without its mean over a molecule's atoms, which is a mere translation
    # Which rotations the loss is averaged over: by default those of the voxel task.
    config.measure = "octahedral.enumerate()"
    config.training.clip = 1.0
    return config
