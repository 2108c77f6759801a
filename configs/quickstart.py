"""The quickstart: a small VoxMol U-Net denoising real molecules, with and without rotation augmentation.

`preset` picks the scale: "cpu" (minutes on 2 cores), "gpu" (VoxMol tiny at the published 0.25 angstrom, one
accelerator), "smoke" (seconds; for tests). Any other field can be overridden beside it, e.g.
`--config.preset=gpu --config.training.steps=20000`.
"""

from ml_collections import ConfigDict

PRESETS = ("cpu", "gpu", "smoke")


def get_config(preset: str = "cpu") -> ConfigDict:
    config = ConfigDict()
    config.preset = preset
    config.seed = 0
    # Labels of the report, with what each arm turns its training molecules by (none, cube, haar).
    config.arms = {"with augmentation": "cube", "without augmentation": "none"}

    config.data = ConfigDict()
    config.data.max_heavy_atoms = 16
    config.data.limit = 2_500  # compounds taken from the list, before the grid's filter
    config.data.validation = 0.1

    config.grid = ConfigDict()
    config.grid.length = 16
    config.grid.resolution = 0.625  # angstrom
    config.grid.radius = 0.625  # angstrom, of every atom; the published 0.5 is under one voxel here
    config.grid.elements = ("C", "H", "O", "N", "F", "S", "Cl", "Br")
    # The published 0.9 is for 0.25 angstrom, where an atom covers 8 times as many voxels; with as much noise per atom
    # (0.32 here) a small network learns little in minutes.
    config.noise_sigma = 0.1

    config.model = ConfigDict()
    config.model.preset = "cpu_0.3M"
    config.model.dropout = 0.0

    config.training = ConfigDict()
    config.training.steps = 500
    config.training.batch_size = 8
    config.training.learning_rate = 3e-3
    config.training.b1 = 0.9  # the published 0.99 averages over more steps than a short run has to spare
    config.training.weight_decay = 1e-2
    config.training.warmup = 10

    config.evaluation = ConfigDict()
    config.evaluation.molecules = 24
    config.evaluation.batch_size = 12
    config.evaluation.points = 9
    config.evaluation.gradient_molecules = 2  # of the first batch: each costs two plain gradients a rotation
    config.evaluation.curvature_of = "head/*"  # parameters whose Hessians the report shows

    if preset == "gpu":
        config.data.max_heavy_atoms = 40
        config.data.limit = 4_000
        config.grid.length, config.grid.resolution, config.grid.radius = 64, 0.25, 0.5
        config.noise_sigma = 0.9
        config.model.preset, config.model.dropout = "tiny", 0.1
        config.training.steps, config.training.batch_size = 10_000, 32
        config.training.learning_rate, config.training.b1 = 2e-4, 0.99
        config.evaluation.molecules, config.evaluation.points = 118, 20
        config.evaluation.gradient_molecules = 12
    elif preset == "smoke":
        config.data.limit = 120
        config.grid.length, config.grid.resolution = 8, 1.25
        config.training.steps, config.training.batch_size = 4, 4
        config.evaluation.molecules, config.evaluation.batch_size, config.evaluation.points = 6, 4, 3
    elif preset != "cpu":
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    return config
