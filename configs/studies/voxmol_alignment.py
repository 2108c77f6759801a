"""Does bringing latents of turned molecules together make smaller models, or less data, learn the symmetry?

The auxiliary loss that arXiv 2507.09753 proposes and does not try, in both readings: latents that turn with the
molecule, and means of latents that stay. See `equiscale.tasks.alignment`.
"""

from ml_collections import ConfigDict

from configs import denoise_voxels
from configs.studies.voxmol_percent import BASE
from equiscale.studies.sweep import Axis, new_config, one_field
from equiscale.tasks.alignment import KINDS


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "An auxiliary loss that aligns the latents of turned molecules",
        "arXiv 2507.09753, open question of its conclusion",
        denoise_voxels.get_config(BASE.get(scale, "cpu")),
    )
    models, fractions, weights, seeds = {
        "cpu": (("cpu_0.3M",), (0.1,), (1.0,), (0, 1)),
        "smoke": (("cpu_0.02M",), (1.0,), (0.1,), (0,)),
        "gpu": (("tiny", "small"), (0.1, 1.0), (0.01, 0.1, 1.0), (0, 1)),
        "paper": (("tiny", "small", "full"), (0.01, 0.1, 0.5, 1.0), (0.01, 0.1, 1.0), (0, 1, 2)),
    }[scale]
    aligned = {
        f"{kind} {weight:g}": {"alignment.kind": kind, "alignment.weight": weight}
        for kind in KINDS
        for weight in weights
    }
    config.axes = (
        one_field("model.preset", *models, name="model"),
        one_field("data.fraction", *fractions),
        Axis("alignment", {"not aligned": {"alignment.weight": 0.0}} | aligned),
        one_field("seed", *seeds),
    )
    config.base.evaluation.instruments = ("alignment",)
    if scale == "cpu":
        config.base.training.steps, config.base.evaluation.points = 200, 5
    return config
