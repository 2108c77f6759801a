"""Does equivariance change how errors fall with data and with size? Laws of dipoles by a network that has to learn
rotations, from molecules turned at random, and by tensor products, which have them built in.

With molecules of your own, e.g. QM9's by `experiments.prepare_data`: `--config.base.data.folder=...`.
"""

from ml_collections import ConfigDict

from configs import predict_quantities
from configs.studies.est_quantities import BASE
from equiscale.studies import alternatives
from equiscale.studies.sweep import Axis, new_config, one_field


def get_config(scale: str = "cpu") -> ConfigDict:
    config = new_config(
        scale,
        "Scaling laws of dipoles: rotations learned against rotations built in",
        "the decision that all three papers are about, by law",
        predict_quantities.get_config(BASE.get(scale, "cpu")),
    )
    sizes, fractions, n_seeds = {
        "cpu": (("cpu_0.008M",), (0.03, 0.1, 0.3, 1.0), 1),
        "smoke": (("cpu_0.02M",), (0.5, 1.0), 1),
        "gpu": (("cpu_0.008M", "cpu_0.02M", "cpu_0.1M"), (0.0025, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0), 2),
        "paper": (("cpu_0.1M", "cpu_0.4M", "1M", "4M"), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), 3),
    }[scale]
    learned = {f"learned, {size}": {"model.preset": size, "augmentation": "haar"} for size in sizes}
    built_in = {f"built in, {size}": {"model.preset": f"tensor_{size}"} for size in sizes}
    config.axes = (
        Axis("rotations", learned | built_in),
        one_field("data.fraction", *fractions),
        one_field("seed", *range(n_seeds)),
    )
    config.compare = tuple(f"{kind}, {sizes[-1]}, fraction {fractions[-1]}" for kind in ("learned", "built in"))
    config.measurements = alternatives.measurements(config.compare[0])
    config.fit = ("parameters", "examples") if scale == "paper" else ("examples",)
    config.base.properties = ("dipole",)
    if scale == "cpu":
        config.base.data.molecules, config.base.data.max_atoms, config.base.data.buckets = 600, 20, 1
        config.base.training.steps, config.base.training.learning_rate = 600, 3e-3
        config.base.evaluation.points = 3
    elif scale == "gpu":
        config.base.data.molecules, config.base.data.max_atoms = 1_500, 29
        config.base.training.steps, config.base.training.learning_rate = 10_000, 3e-3
        config.base.evaluation.molecules = 512
    return config
