"""Which parts of the Equivariant Spherical Transformer matter? One left out, or put in another's place, at a time."""

from ml_collections import ConfigDict

from configs import predict_quantities
from configs.spherical import shallow
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "The Equivariant Spherical Transformer with graph attention, without one part at a time",
        "arXiv 2505.23086, Table 13 (QM9's alpha), over seeds and with the equivariance each variant has",
        base(scale),
    )
    n_seeds = {"cpu": 1, "smoke": 1}.get(scale, 3)
    spherical = {
        "full": {},
        "no norm at points": {"norm": "none"},
        "no norm, no attention": {"norm": "none", "attend": False},
        "spherical experts alone": {"n_steerable": 0, "n_spherical": 2},
        "steerable experts alone": {"n_steerable": 2, "n_spherical": 0},
        "e3nn's grid, no weights": {"rule": "e3nn", "points": 96, "weighted": False},
        "e3nn's grid, its weights": {"rule": "e3nn", "points": 96, "inverse": "least_squares"},
        "scalars of points, too": {"bypass": False},
    }
    if scale == "smoke":
        spherical = {name: spherical[name] for name in ("full", "no norm, no attention")}
    arms = {name: fields_of(fields) for name, fields in spherical.items()}
    config.base.evaluation.instruments = ("properties",)
    config.axes = (Axis("model", arms), one_field("seed", *range(n_seeds)))
    return config


def fields_of(spherical: dict) -> dict:
    """Fields of spherical transformers, as a config has them."""
    return {f"model.spherical.{name}": value for name, value in spherical.items()}


def base(scale: str) -> ConfigDict:
    """The config that these ablations start from: HOMO-LUMO gaps. At paper scale set `base.data.folder` to QM9, and
    `base.properties` to its alpha.
    """
    config = predict_quantities.get_config({"cpu": "cpu", "smoke": "smoke"}.get(scale, "qm9_a"))
    size = {"cpu": "cpu_0.02M", "smoke": "cpu_0.02M", "gpu": "1M", "paper": "4M"}[scale]
    config.model.preset = f"est_published_ga_{size}"
    config.properties = ("gap",)
    config.update_from_flattened_dict(shallow(scale))
    if scale == "cpu":
        config.data.molecules, config.data.max_atoms, config.data.buckets = 500, 20, 1
        config.model.spherical.points = 48
        config.training.steps, config.evaluation.points = 100, 4
        config.evaluation.molecules, config.evaluation.batch_size = 64, 32
    if scale == "gpu":
        config.training.steps, config.training.warmup = 20_000, 500
    return config
