"""Nominal against actual equivariance: percent of the force loss by points on the sphere, degree and width."""

from ml_collections import ConfigDict

from configs.spherical import shallow
from configs.studies.escaip_percent import base
from equiscale.models.spherical_transformer import PRESETS
from equiscale.studies.sweep import Axis, new_config, one_field

FEWEST = {1: 12, 2: 32, 3: 48, 4: 48}  # points of a design that transforms of the degree can be made on


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Equivariance error of spherical transformers by points on the sphere, degree and width",
        "arXiv 2505.23086, Table 5, over degrees and widths and after training",
        base(scale),
    )
    size, points, degrees, n_seeds = {
        "cpu": ("cpu_0.02M", (32, 94), (1, 2), 1),
        "smoke": ("cpu_0.02M", (32, 48), (2,), 1),
        "gpu": ("1M", (32, 48, 94, 192), (1, 2, 3, 4), 2),
        "paper": ("4M", (32, 48, 94, 192), (1, 2, 3, 4), 3),
    }[scale]
    arms = {}

    def line(name: str, kind: str, degree: int, **fields) -> None:
        preset = f"est_{kind}_ga_{size}"
        given = {"degree": degree, **fields}
        for s in points:
            if s >= FEWEST[degree]:
                set_here = {f"model.spherical.{field}": value for field, value in (given | {"points": s}).items()}
                arms[f"{name}, {s} points"] = {"model.preset": preset, **shallow(scale), **set_here}

    for degree in degrees:
        line(f"exact, degree {degree}", "exact", degree)
    wide = PRESETS[f"est_exact_ga_{size}"]
    line("exact, twice as wide", "exact", 2, channels=2 * wide["channels"], hidden=2 * wide["hidden"])
    line("published, degree 2", "published", 2)
    arms["not equivariant"] = {"model.preset": size}
    config.axes = (Axis("model", arms), one_field("seed", *range(n_seeds)))
    config.against = "model.spherical.points"
    config.base.evaluation.instruments = ("scores",)
    if scale == "cpu":
        config.base.training.steps, config.base.evaluation.points = 100, 5
    return config
