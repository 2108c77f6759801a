"""Do updates of pairs by triangles change how equivariance error falls? Model sizes with and without them.

With updates comes the loss of the distogram, as published, so that the two cannot be told apart here.
"""

from ml_collections import ConfigDict

from configs.studies.proteina_percent import base
from equiscale.studies.sweep import Axis, new_config, one_field

# Small presets have no updates of pairs; they get one after every so many blocks.
TRIANGLES = {"micro": 1, "tiny": 2, "small": 2}


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Share of the flow's loss from equivariance error: model sizes with and without triangle updates",
        "Training-dynamics paper, Figures 2 and 3 (Proteina, 60M and 400M with triangles)",
        base(scale),
    )
    config.made = "synthetic chains"
    sizes, seeds = {
        "cpu": (("micro", "tiny"), (0,)),
        "smoke": (("micro",), (0,)),
        "gpu": (("tiny", "small"), (0, 1)),
        "paper": (("60M", "200M"), (0, 1)),
    }[scale]
    models = {}
    for size in sizes:
        models[size] = {"model.preset": size}
        if size in TRIANGLES:
            updates = {"model.update_every": TRIANGLES[size], "model.triangles": True}
            models[f"{size}, triangles"] = {"model.preset": size} | updates
    if scale == "paper":
        models |= {name: {"model.preset": name} for name in ("60M_triangles", "400M")}
    config.axes = (Axis("model", models), one_field("seed", *seeds))
    config.base.evaluation.instruments = ("times",)
    if scale == "cpu":  # updates take most of the time: fewer steps, evaluations and measured chains
        config.base.training.steps, config.base.evaluation.points = 130, 5
        config.base.evaluation.molecules = config.base.evaluation.batch_size = 12
    return config
