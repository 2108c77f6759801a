"""Predicting properties of molecules from their voxels, by a head on a U-Net's bottleneck; sizes as for denoising.

`preset` picks the scale: "cpu" (minutes on 2 cores), "tiny", "small", "full" (7M, 28M and 111M parameters at the
published 0.25 angstrom, for accelerators), "smoke" (seconds; for tests). Any other field can be overridden beside it,
e.g. `--config.properties="('logp', 'vector_to_n_and_o')"`.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels

PRESETS = denoise_voxels.PRESETS


def get_config(preset: str = "cpu") -> ConfigDict:
    config = denoise_voxels.get_config(preset)
    config.task = "predict_properties"
    # Of equiscale.data.properties; a vector counts as three components of the loss. What molecules on disk have stored
    # with them can be named too.
    config.properties = (
        "logp",
        "tpsa",
        "heavy_atoms",
        "molecular_weight",
        "radius_of_gyration",
        "vector_to_n_and_o",
    )
    config.input = "noisy"  # densities as for denoising, or "clean"
    config.denoising_weight = 0.0  # of the denoising loss that is added; 1 adds the published one, hundreds at first

    config.encoder = ConfigDict()
    config.encoder.run = ""  # folder of a finished run of denoise_voxels that the U-Net starts from; "" starts anew
    config.encoder.averaged = False  # from its averaged parameters instead of the raw ones
    config.encoder.frozen = False  # train the head alone

    config.head = ConfigDict()
    config.head.width = 128
    config.head.dropout = 0.1

    config.evaluation.instruments = ("properties",)
    if preset == "cpu":
        # In minutes a small network reads no property off noisy voxels, and at the rate that denoises none at all.
        config.input, config.head.dropout = "clean", 0.0
        config.training.learning_rate, config.training.batch_size = 1e-3, 16
        config.evaluation.molecules, config.evaluation.batch_size = 128, 32
    elif preset != "smoke":
        config.head.width = 512
        # The published rate is for hundreds of thousands of steps of denoising.
        config.training.learning_rate, config.training.warmup, config.training.steps = 2e-4, 100, 20_000
    return config
