"""Does turning the molecule that generation starts from change what is generated? By model size, data, augmentation.

A walk of few steps stays near its seed and of many forgets it. At the "cpu" scale it is short: a network of minutes
makes molecules only near molecules.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import Measurement, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Generation from turned seeds",
        "arXiv 2507.09753, Tables 1 and 2",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    models, fractions, augmentations, seeds, steps = {
        "cpu": (("cpu_0.06M", "cpu_0.3M", "cpu_1M"), (1.0,), ("cube",), 100, 1),
        "smoke": (("cpu_0.02M",), (1.0,), ("cube",), 4, 1),
        "gpu": (("tiny", "small"), (0.1, 1.0), ("euler", "none"), 100, 100),
        "paper": (("tiny", "small", "full"), (0.1, 0.5, 1.0), ("euler", "none"), 1_000, 500),
    }[scale]
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("data.fraction", *fractions),
        one_field("augmentation", *augmentations),
    )
    flags = {"seeds_from": "validation", "seeds": seeds, "rotations": 4, "steps": steps, "jumps": 1}
    config.measurements = (
        Measurement("generate", flags, "generated/seeded/generate.json"),
        Measurement("assess", {"name": "seeded"}, "generated/seeded/assessment.json"),
    )
    return config
