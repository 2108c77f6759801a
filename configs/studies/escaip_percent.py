"""How the share of equivariance error of forces falls with training: by amount of data and by training loss."""

from ml_collections import ConfigDict

from configs import force_field
from equiscale.studies.sweep import Axis, new_config, one_field

BASE = {"cpu": "cpu", "gpu": "4M", "paper": "6M", "smoke": "smoke"}  # presets of the task, by scale
# The recipe's loss, and the squared error that is decomposed; one energy weighs as much beside forces in both.
LOSSES = Axis(
    "loss",
    {
        "published": {"loss.kind": "published"},
        "squares": {"loss.kind": "squares", "loss.energy_weight": 0.04, "loss.force_weight": 1.0},
    },
)
# Of plain networks that are compared with equivariant ones: forces that start as small as theirs. From the published
# start a plain one has first to learn to predict nothing, and a comparison of short runs would be one of starts.
EQUAL_START = {"model.force_gain": 0.03}


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Share of the force loss from equivariance error, by amount of data and training loss",
        "Training-dynamics paper, Figures 2 and 3 (EScAIP) and section 4",
        base(scale),
    )
    fractions, seeds = {
        "cpu": ((0.1, 1.0), (0, 1)),
        "smoke": ((1.0,), (0,)),
        "gpu": ((0.05, 0.5, 1.0), (0, 1)),
        "paper": ((0.0005, 0.005, 0.05, 1.0), (0, 1, 2)),  # 500, 5k and 50k of SPICE's 950k
    }[scale]
    config.axes = (one_field("data.fraction", *fractions), LOSSES, one_field("seed", *seeds))
    config.fit = ("examples",)
    config.base.evaluation.instruments = ("scores",)
    return config


def base(scale: str) -> ConfigDict:
    """The config that runs of force-field studies start from. Paper scale needs SPICE: set `base.data.folder`."""
    config = force_field.get_config(BASE.get(scale, "cpu"))
    config.data.buckets = 1 if scale in ("cpu", "smoke") else config.data.buckets
    if scale == "cpu":
        config.data.frames, config.data.max_atoms = 1_000, 20
        config.model.preset = "cpu_0.02M"
        config.training.steps, config.training.learning_rate, config.training.ema_decay = 300, 3e-3, 0.0
        config.evaluation.molecules, config.evaluation.batch_size, config.evaluation.points = 32, 32, 9
    if scale == "gpu":
        config.training.steps, config.training.learning_rate = 20_000, 3e-4
    return config
