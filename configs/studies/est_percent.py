"""How equivariant is a spherical transformer while it trains? Percent of the force loss, by points and by rule.

Nominally all are equivariant: what is measured is what their points leave of it, on the axes of models that are not.
"""

from ml_collections import ConfigDict

from configs.spherical import shallow
from configs.studies.escaip_percent import EQUAL_START, base
from equiscale.studies import alternatives
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Equivariance error of spherical transformers along training",
        "arXiv 2505.23086, Table 5, which has untrained networks only",
        base(scale),
    )
    size, few, many, n_seeds = {
        "cpu": ("cpu_0.02M", 32, 94, 1),
        "smoke": ("cpu_0.02M", 32, 48, 1),
        "gpu": ("1M", 32, 128, 2),
        "paper": ("4M", 32, 128, 3),
    }[scale]

    def sampled(kind: str, points: int) -> dict:
        return {"model.preset": f"est_{kind}_ga_{size}", "model.spherical.points": points, **shallow(scale)}

    arms = {f"published, {s} points": sampled("published", s) for s in (few, many)}
    arms |= {f"exact, {s} points": sampled("exact", s) for s in (few, many)}
    arms |= {
        "not equivariant": {"model.preset": size, **EQUAL_START},
        "tensor products": {"model.preset": f"tfn_{size}"},
    }
    config.axes = (Axis("model", arms), one_field("seed", *range(n_seeds)))
    config.compare = ("not equivariant", "tensor products")
    config.measurements = alternatives.measurements(config.compare[0])
    config.base.evaluation.instruments = ("scores",)
    if scale == "cpu":
        config.base.training.steps, config.base.evaluation.points = 160, 6
    return config
