"""Do voxel networks predict properties better once they have denoised, and what does broken invariance cost them?"""

from ml_collections import ConfigDict

from configs import denoise_voxels, predict_properties
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import PRETRAINED, Axis, new_config, one_field, pretraining_of


def get_config(scale: str = "cpu") -> ConfigDict:
    preset = BASE.get(scale, "cpu")
    config = new_config(
        scale,
        "Properties from the bottleneck of a denoiser of voxels",
        "arXiv 2507.09753, property prediction",
        predict_properties.get_config(preset),
    )
    config.base.evaluation.instruments = ("properties",)
    config.pretraining = pretraining_of(denoise_voxels.get_config(preset))
    config.pretraining.evaluation.instruments = ()
    models, seeds = {
        "cpu": (("cpu_0.3M",), (0,)),
        "smoke": (("cpu_0.02M",), (0,)),
        "gpu": (("tiny",), (0, 1)),
        "paper": (("tiny", "small", "full"), (0, 1, 2)),
    }[scale]
    encoders = {
        "fresh": {"encoder.run": "", "encoder.frozen": False},
        "frozen pretrained": {"encoder.run": PRETRAINED, "encoder.frozen": True},
        "frozen random": {"encoder.run": "", "encoder.frozen": True},
        "trained further": {"encoder.run": PRETRAINED, "encoder.frozen": False},
    }
    if scale == "cpu":  # random features of voxels were seen to tell nothing
        del encoders["frozen random"]
    # Augmentation, like model and seed, is that of the pretraining, too.
    config.axes = (
        one_field("model.preset", *models, name="model"),
        Axis("encoder", encoders),
        one_field("augmentation", "cube", "none"),
        one_field("seed", *seeds),
    )
    if scale == "cpu":
        config.base.training.steps = config.pretraining.training.steps = 130
        config.base.evaluation.points = config.pretraining.evaluation.points = 1
        config.base.evaluation.molecules = 64  # in 24 orientations each: they take longer than these steps
    elif scale == "gpu":
        config.pretraining.training.steps, config.pretraining.training.learning_rate = 20_000, 2e-4
    return config
