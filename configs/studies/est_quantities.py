"""Do exactly equivariant networks predict dipoles and gaps better than spherical ones, and than one that learns it?

Table 3 of arXiv 2505.23086 has errors alone; here with the share of the loss that is equivariance error, and the cost.
Paper scale needs QM9 with columns "dipole" and "gap": set `base.data.folder`.
"""

from ml_collections import ConfigDict

from configs import predict_quantities
from configs.spherical import shallow
from equiscale.studies import alternatives
from equiscale.studies.sweep import Axis, new_config, one_field

BASE = {"cpu": "cpu", "gpu": "cpu", "paper": "qm9_a", "smoke": "smoke"}  # presets of the task, by scale


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Dipoles and gaps of molecules by spherical, tensor-product and invariant networks",
        "arXiv 2505.23086, Table 3 (QM9), with equivariance measured",
        predict_quantities.get_config(BASE.get(scale, "cpu")),
    )
    size, points, n_seeds = {
        "cpu": ("cpu_0.02M", 32, 1),
        "smoke": ("cpu_0.02M", 32, 1),
        "gpu": ("1M", 128, 2),
        "paper": ("4M", 128, 3),
    }[scale]
    networks = {
        kind: {"model.preset": f"{kind}_{size}"}
        | ({"model.spherical.points": points} if kind.startswith("est") else {})
        | shallow(scale)
        for kind in ("est_exact", "est_published", "tfn", "equiformer", "mace")
    }
    networks["not equivariant"] = {"model.preset": size, "augmentation": "haar"}  # it can only learn from turned data
    config.axes = (Axis("network", networks), one_field("seed", *range(n_seeds)))
    config.compare = ("not equivariant", "tfn")
    config.measurements = alternatives.measurements(config.compare[0])
    config.base.properties = ("dipole", "gap")
    config.base.evaluation.instruments = ("properties",)
    if scale == "cpu":
        config.base.data.molecules, config.base.data.max_atoms, config.base.data.buckets = 500, 20, 1
        config.base.training.steps, config.base.training.learning_rate = 150, 3e-3
        config.base.evaluation.molecules, config.base.evaluation.batch_size = 32, 32
        config.base.evaluation.points = 5
    elif scale == "gpu":
        config.base.data.molecules, config.base.data.max_atoms = 1_500, 29
        config.base.training.steps, config.base.training.batch_size = 20_000, 64
        config.base.training.learning_rate = 5e-4
    elif scale == "paper":
        config.base.intensive = ("gap",)
    return config
