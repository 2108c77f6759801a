"""Denoising voxelised molecules (VoxMol): sizes from a laptop's to the published 111M parameters.

`preset` picks the scale: "cpu" (minutes on 2 cores), "tiny", "small", "full" (7M, 28M and 111M parameters at the
published 0.25 angstrom, noise, augmentation and optimiser, for accelerators), "smoke" (seconds; for tests). Any other
field can be overridden beside it, e.g. `--config.preset=tiny --config.model.preset=steerable_2M`.
"""

from ml_collections import ConfigDict

PRESETS = ("cpu", "tiny", "small", "full", "smoke")


def get_config(preset: str = "cpu") -> ConfigDict:
    config = ConfigDict()
    config.task = "denoise_voxels"
    config.preset = preset
    config.seed = 0
    config.augmentation = "cube"  # what training molecules are turned by: none, cube, paper16, haar, euler
    config.translation = 0.0  # angstrom along each axis that they are moved by at most

    config.data = ConfigDict()
    config.data.max_heavy_atoms = 16
    config.data.limit = 2_500  # compounds taken from the list, before the grid's filter
    config.data.validation = 0.1
    config.data.fraction = 1.0  # of the training molecules; smaller ones are parts of larger ones
    config.data.folder = ""  # molecules on disk, made by experiments.prepare_data; "" takes RDKit's NCI list
    config.data.buckets = 1  # padded lengths at most, each compiled once; more save time where sizes differ much

    config.grid = ConfigDict()
    config.grid.length = 16
    config.grid.resolution = 0.625  # angstrom
    config.grid.radius = 0.625  # angstrom, of every atom; the published 0.5 is under one voxel here
    config.grid.elements = ("C", "H", "O", "N", "F", "S", "Cl", "Br")
    # The published 0.9 is for 0.25 angstrom, where an atom covers 8 times as many voxels. With as much noise per atom
    # (0.32 here) a small network gets half of the loss of predicting nothing in minutes, with this a seventh.
    config.noise_sigma = 0.1

    config.model = ConfigDict()
    config.model.preset = "cpu_0.3M"
    config.model.dropout = 0.0
    config.model.dtype = "float32"  # of the computation; parameters, losses and metrics are float32 always
    config.model.remat = False  # recompute blocks in the backward pass: less memory, a third more time

    config.alignment = ConfigDict()  # of latents of turned molecules, see equiscale.tasks.alignment
    config.alignment.weight = 0.0  # of that loss beside the denoising loss; at 0 there is none
    config.alignment.kind = "equivariant"  # or "invariant"

    config.training = ConfigDict()  # see equiscale.training.settings
    config.training.steps = 500
    config.training.seed = -1  # of the start and the order of batches, on the same data; -1: config.seed
    config.training.batch_size = 8
    config.training.learning_rate = 3e-3
    config.training.optimizer = "adamw"  # or lion, sgd
    config.training.b1 = 0.9  # the published 0.99 averages over more steps than a short run has to spare
    config.training.weight_decay = 1e-2
    config.training.warmup = 10
    config.training.final_rate = 1.0  # of the last step over learning_rate, along half a cosine; 1 stays constant
    config.training.clip = 0.0  # largest norm of a gradient; 0 clips none
    config.training.ema_decay = 0.0
    config.training.accumulate = 1
    config.training.fsdp = False
    config.training.skip_nonfinite = False
    config.training.save_every = 0
    config.training.keep = 2  # checkpoints, the last ones; 0 keeps all
    config.training.keep_best = 0  # and so many of the lowest validation loss

    config.evaluation = ConfigDict()
    config.evaluation.molecules = 24
    config.evaluation.batch_size = 12
    config.evaluation.points = 9
    config.evaluation.at = (0,)  # steps to evaluate at besides
    # Measured at evaluations besides the decomposition: gradients, extremes (of the Hessians), spectrum (dense: small
    # choices of parameters), of which each molecule costs two plain gradients a rotation; and alignment (of latents, on
    # all validation molecules).
    config.evaluation.instruments = ("gradients",)
    config.evaluation.instrument_molecules = 2
    config.evaluation.curvature_of = "head/*"  # parameters whose Hessians are meant

    if preset in ("tiny", "small", "full"):
        config.data.max_heavy_atoms = 40
        config.data.limit = 4_000
        config.grid.length, config.grid.resolution, config.grid.radius = 64, 0.25, 0.5
        config.noise_sigma = 0.9
        config.model.preset, config.model.dropout = preset, 0.1
        config.model.remat = preset == "full"
        config.augmentation, config.translation = "euler", 0.5  # as published, like the four lines below
        config.training.steps, config.training.batch_size = 50_000, 64
        config.training.learning_rate, config.training.warmup = 2e-5, 0
        config.training.b1, config.training.weight_decay = 0.99, 1e-2
        config.training.ema_decay, config.training.save_every = 0.999, 500
        config.evaluation.molecules, config.evaluation.points = 118, 20
        config.evaluation.instrument_molecules = 12
    elif preset == "smoke":
        config.data.limit = 120
        config.grid.length, config.grid.resolution = 8, 1.25
        config.model.preset = "cpu_0.02M"
        config.training.steps, config.training.batch_size = 4, 4
        config.evaluation.molecules, config.evaluation.batch_size, config.evaluation.points = 6, 4, 3
    elif preset != "cpu":
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    return config
