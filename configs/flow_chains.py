"""Flow matching of protein backbones (Proteina): chains of C-alpha from noise, by a transformer with biases of pairs.

`preset` picks the scale: "cpu" (minutes on 2 cores: "tiny", 1.06 million parameters, chains cut to 64 residues), "60M"
and "400M" (the published 64,995,584 and 397,545,472 parameters with their recipe, for accelerators), "smoke" (seconds;
for tests). Chains are synthetic ones, made here, unless `data.folder` names a set made by experiments.prepare_chains.
Any other field can be overridden beside the preset, e.g. `--config.preset=60M --config.data.folder=sets/pdb` or
`--config.target=rao_blackwell`.
"""

from ml_collections import ConfigDict

PRESETS = ("cpu", "60M", "400M", "smoke")


def get_config(preset: str = "cpu") -> ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")
    config = ConfigDict()
    config.task = "flow_chains"
    config.preset = preset
    config.seed = 0
    config.augmentation = "haar"  # what training chains are turned by: haar, as published, none, cube, paper16, euler
    config.measure = "so3.haar(10)"  # rotations that the measured loss is averaged over, other ones for each chain
    # What a velocity is learned towards: the chain as it is turned ("plain"), or the mean over all the ways in which it
    # may be turned, given what is seen of it ("rao_blackwell").
    config.target = "plain"
    config.self_conditioning = 0.5  # share of batches in which the network sees a first guess of its own
    config.distogram_weight = 1.0  # of the loss of distances, where the model updates pairs
    config.time = 0.9  # flow time of what is decomposed; the instrument "times" does so at all of these:
    config.times = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)

    config.data = ConfigDict()
    config.data.folder = ""  # chains on disk, made by experiments.prepare_chains; "" makes synthetic ones
    config.data.chains = 2_000  # synthetic ones to make
    config.data.seed = 0  # of them
    config.data.length = 64  # residues that chains are cut to, windows side by side; 0 leaves them whole
    config.data.validation = 0.05  # of the chains, by cluster
    config.data.fraction = 1.0  # of the training chains; smaller ones are parts of larger ones
    config.data.buckets = 1  # padded lengths at most, each compiled once
    config.data.by_cluster = True  # an epoch takes one chain of every cluster, as published

    config.model = ConfigDict()
    config.model.preset = "tiny"  # or micro, small, 60M, 60M_triangles, 200M, 400M
    config.model.dtype = "float32"  # of the computation; parameters, losses and metrics are float32 always
    config.model.update_every = -1  # blocks between updates of pairs, 0 for none; -1: the preset's
    config.model.triangles = False  # in these updates; presets that have triangles keep them
    config.model.rows_at_once = 0  # of the pairs' features, to save memory where pairs are not updated; 0: all
    config.model.remat = False  # recompute blocks in the backward pass: less memory, a third more time

    config.training = ConfigDict()  # see equiscale.training.settings
    config.training.steps = 600
    config.training.seed = -1  # of the start and the order of batches, on the same data; -1: config.seed
    config.training.batch_size = 8
    config.training.learning_rate = 1e-3
    config.training.optimizer = "adamw"  # or lion, sgd
    config.training.weight_decay = 0.0
    config.training.warmup = 0
    config.training.final_rate = 1.0
    config.training.clip = 1.0
    config.training.ema_decay = 0.99  # both raw and averaged parameters are measured
    config.training.accumulate = 1
    config.training.fsdp = False
    config.training.skip_nonfinite = False
    config.training.save_every = 0
    config.training.keep = 2  # checkpoints, the last ones; 0 keeps all
    config.training.keep_best = 0

    config.evaluation = ConfigDict()
    config.evaluation.molecules = 24  # chains that are measured, as published
    config.evaluation.batch_size = 24
    config.evaluation.points = 9
    config.evaluation.at = (0,)  # steps to evaluate at besides
    # Measured at evaluations besides the decomposition: times (all of them), gradients_by_time (of its components
    # there), gradient_noise (how much gradients vary with either target), gradients, extremes (of the Hessians),
    # spectrum (dense: small choices of parameters).
    config.evaluation.instruments = ("times",)
    config.evaluation.instrument_molecules = 8
    config.evaluation.curvature_of = "head/*"  # parameters whose Hessians are meant: the published choice

    if preset == "smoke":
        config.data.chains, config.data.length = 40, 24
        config.model.preset = "micro"
        config.training.steps, config.training.batch_size = 4, 4
        config.evaluation.molecules, config.evaluation.batch_size, config.evaluation.points = 2, 2, 3
        config.evaluation.instrument_molecules = 2
        config.measure = "so3.haar(4)"
    elif preset != "cpu":
        config.data.chains, config.data.length, config.data.validation = 20_000, 0, 0.02
        config.data.buckets = 8
        config.model.preset = preset
        config.training.steps, config.training.batch_size = 1_000_000, 4
        config.training.learning_rate, config.training.ema_decay = 1e-4, 0.999
        config.training.save_every, config.evaluation.points = 10_000, 40
    return config
