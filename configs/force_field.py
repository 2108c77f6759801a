"""Force fields (EScAIP): energies and forces of quantum chemistry, learned by a graph transformer.

`preset` picks the scale: "cpu" (minutes on 2 cores), "1M", "4M", "6M" (the published 6,137,222 parameters, for
accelerators, with its recipe), "smoke" (seconds; for tests). Frames are RDKit's compounds labelled by GFN2-xTB unless
`data.folder` names a set made by experiments.prepare_forces. Any other field can be overridden beside the preset, e.g.
`--config.preset=6M --config.data.folder=sets/spice` or `--config.model.preset=tensor_cpu_0.1M`.
"""

from ml_collections import ConfigDict

from configs.spherical import spherical_fields

PRESETS = ("cpu", "1M", "4M", "6M", "smoke")


def get_config(preset: str = "cpu") -> ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    config = ConfigDict()
    config.task = "force_field"
    config.preset = preset
    config.seed = 0
    config.augmentation = "none"  # what training frames are turned by: none, as published, cube, paper16, haar, euler
    config.measure = "so3.haar(10)"  # rotations that the measured loss is averaged over, other ones for each example

    config.data = ConfigDict()
    config.data.folder = ""  # frames on disk, made by experiments.prepare_forces; "" makes some by GFN2-xTB
    config.data.frames = 2_000  # to make, 20 a second and core the first time, then from the cache
    config.data.max_atoms = 30  # of the compounds to make frames of
    config.data.seed = 0  # of the frames' dynamics
    config.data.validation = 0.1  # of the compounds
    config.data.fraction = 1.0  # of the training frames; smaller ones are parts of larger ones
    config.data.buckets = 2  # padded lengths at most, each compiled once

    config.graph = ConfigDict()
    config.graph.neighbours = 20  # slots of each atom, for the nearest
    config.graph.cutoff = 6.0  # angstrom

    config.model = ConfigDict()
    # Or tensor_cpu_0.1M, exactly equivariant; est_exact_cpu_0.1M, est_published_ga_cpu_0.1M, equiformer_cpu_0.1M,
    # mace_cpu_0.1M, ... (equiscale.models.spherical_transformer); and other sizes of all.
    config.model.preset = "cpu_0.1M"
    config.model.dtype = "float32"  # of the computation; parameters, losses and metrics are float32 always
    config.model.forces = "direct"  # or the energy's negative "gradient"
    # Of spherical transformers, in the place of the preset's: points, degree, n_steerable, ... (configs/spherical.py)
    config.model.spherical = spherical_fields()
    # These are of the graph transformer alone.
    config.model.breaking = 1.0  # of the force head's equivariance; 0 is its exactly equivariant twin
    # How large direct forces start, over the published start, which is three to twenty times as large as those to
    # learn; from 0.03 a network of 0.02M has 0.7 times the loss after 300 steps, one of 0.1M 0.7 to 0.9 after 1,500.
    config.model.force_gain = 1.0
    config.model.output_multiplier = 2  # hidden over outer width of its heads; 1 for the published Hessians
    config.model.remat = False  # recompute blocks in the backward pass: less memory, a third more time

    config.loss = ConfigDict()
    config.loss.kind = "published"  # absolute energies and norms of forces; or "squares", which is what is measured
    config.loss.energy_weight = 4.0
    config.loss.force_weight = 100.0

    config.training = ConfigDict()  # see equiscale.training.settings
    config.training.steps = 1_500
    config.training.seed = -1  # of the start and the order of batches, on the same data; -1: config.seed
    config.training.batch_size = 16
    config.training.learning_rate = 1e-3
    config.training.optimizer = "adamw"  # or lion, sgd
    config.training.weight_decay = 1e-2
    config.training.warmup = 50
    config.training.final_rate = 0.1
    config.training.clip = 10.0
    config.training.ema_decay = 0.99
    config.training.accumulate = 1
    config.training.fsdp = False
    config.training.skip_nonfinite = False
    config.training.save_every = 0
    config.training.keep = 2  # checkpoints, the last ones; 0 keeps all
    config.training.keep_best = 0

    config.evaluation = ConfigDict()
    config.evaluation.molecules = 64  # frames, of many compounds
    config.evaluation.batch_size = 16
    config.evaluation.points = 12
    config.evaluation.at = (0,)  # steps to evaluate at besides
    # Measured at evaluations besides the decomposition: scores (errors, and what is known of the model's kind: head,
    # attention), gradients, extremes (of the Hessians), spectrum (dense: small choices of parameters).
    config.evaluation.instruments = ("scores", "gradients")
    config.evaluation.instrument_molecules = 8
    config.evaluation.curvature_of = "force_head/weight"  # parameters whose Hessians are meant

    if preset == "smoke":
        config.data.frames, config.data.max_atoms = 48, 20
        config.model.preset = "cpu_0.02M"
        config.training.steps, config.training.batch_size = 4, 4
        config.evaluation.molecules, config.evaluation.batch_size, config.evaluation.points = 6, 4, 3
        config.evaluation.instrument_molecules = 2
        config.measure = "so3.haar(4)"
    elif preset != "cpu":
        config.data.frames, config.data.max_atoms = 10_000, 50
        config.graph.cutoff = 12.0
        config.model.preset = preset
        config.training.steps, config.training.batch_size = 445_000, 64
        config.training.learning_rate, config.training.final_rate = 1e-5, 0.5
        config.training.warmup, config.training.ema_decay = 1_500, 0.999
        config.training.save_every, config.evaluation.points = 1_000, 30
    return config
