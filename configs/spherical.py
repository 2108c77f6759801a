"""Fields of spherical transformers that a config can set in the place of its preset's."""

from ml_collections import ConfigDict, config_dict

# Of `equiscale.models.spherical_transformer.SphericalTransformer`, whose docstring says what they mean.
KINDS = {
    **dict.fromkeys(("degree", "channels", "hidden", "message_hidden", "n_layers", "points"), int),
    **dict.fromkeys(("n_steerable", "n_spherical", "n_shared", "top_k"), int),
    **dict.fromkeys(("rule", "inverse", "norm"), str),
    **dict.fromkeys(("weighted", "bypass", "attend"), bool),
    **dict.fromkeys(("spread", "balance"), float),
}


def spherical_fields() -> ConfigDict:
    """None is what the preset says. A `spread` of 0 is no cap, a `top_k` of 0 all experts."""
    return ConfigDict({name: config_dict.placeholder(kind) for name, kind in KINDS.items()})


def shallow(scale: str) -> dict[str, int]:
    """Fields of a study's spherical networks: one layer and degree 1 where it runs as a test, which is compilation."""
    return {"model.spherical.n_layers": 1, "model.spherical.degree": 1} if scale == "smoke" else {}
