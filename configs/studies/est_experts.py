"""How many experts, how sparse, and does a balance loss help? Mixtures of the Equivariant Spherical Transformer."""

from ml_collections import ConfigDict

from configs.studies.est_components import base, fields_of
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Experts of the Equivariant Spherical Transformer: how many, how many at a time, how evenly used",
        "arXiv 2505.23086, Tables 6 to 8 (QM9's alpha), with both kinds of experts and a shared one",
        base(scale),
    )
    counts, most, n_seeds = {
        "cpu": ((1, 4), 4, 1),
        "smoke": ((1,), 2, 1),
        "gpu": ((1, 2, 4, 8, 16), 10, 2),
        "paper": ((1, 2, 4, 8, 10, 16, 32, 64), 10, 3),
    }[scale]
    arms = {f"{n} steerable": {"n_steerable": n, "n_spherical": 0} for n in counts}
    both = {"n_steerable": most // 2, "n_spherical": most - most // 2}
    arms[f"{most} of both kinds"] = both
    arms[f"{most} of both kinds, a shared one"] = both | {"n_shared": 1}
    arms[f"the best 2 of {most}"] = both | {"top_k": min(2, most)}
    for balance in {"cpu": (0.01,), "smoke": ()}.get(scale, (0.001, 0.01, 0.1)):
        arms[f"the best 2 of {most}, balance {balance:g}"] = both | {"top_k": 2, "balance": balance}
    arms = {name: fields_of(fields) for name, fields in arms.items()}
    config.base.evaluation.instruments = ("properties",)
    config.axes = (Axis("model", arms), one_field("seed", *range(n_seeds)))
    return config
