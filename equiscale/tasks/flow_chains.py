"""Flow matching of protein backbones: Proteina on C-alpha chains (arXiv 2503.00710).

A network reads a chain on its way from noise to data and gives its velocity, in nm; what is decomposed is the squared
error of velocities per coordinate of the residues, at one flow time, and as the score "times" at all that the paper
looks at. Of squared errors of the clean positions instead, percents are the same.

Of that error most cannot be removed. The part that is there because nobody can know how a noisy chain was turned is
known exactly of every chain (`models.flow_path.lost_to_rotation`), and percents are given of the rest besides.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from ml_collections import ConfigDict

import equiscale as es
from equiscale import actions
from equiscale.data.chains import Chains
from equiscale.data.point_noise import noise
from equiscale.decompose import decompose
from equiscale.decomposition import Decomposition
from equiscale.gradients import Norms, gradients
from equiscale.models import flow_path as path
from equiscale.models.flow_pairs import distances
from equiscale.models.flow_transformer import PRESETS, TURNED, Chain, Flow, FlowTransformer
from equiscale.rotation_posterior import prior_of
from equiscale.tasks.augmentations import AUGMENTATIONS
from equiscale.tasks.chain_sets import ChainRows, load
from equiscale.tasks.gradient_noise import Spread, gradient_spread, spread_record
from equiscale.tasks.measure_names import parse_measure
from equiscale.tasks.molecule_sets import batches
from equiscale.tasks.task import Pair, Score, Streamed, Task

TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)  # of the training-dynamics paper
TARGETS = ("plain", "rao_blackwell")
FAR = 1.0  # nm: distances beyond are one class of the distogram
LATE = 0.3  # the flow time from which the distogram is learned
# What chains may have been turned by, where a mean over it can be a target.
TURNED_BY = {"haar": None, "cube": prior_of(es.octahedral.enumerate())}
KNOWN_FROM = "a model that knows the chain but not how it is turned"


class FlowExperiment(NamedTuple):
    """A configured flow with what its report and its use need besides."""

    task: Task
    model: FlowTransformer
    measured: Chains
    reports: tuple[str, ...]  # where the data is from and what was left out
    constants: Mapping[str, Any] = MappingProxyType({})


class Noised(NamedTuple):
    """A training batch: what the network reads, the clean chains as they are turned in it, and their noise."""

    x: Chain
    clean: Float[Array, "n residues 3"]
    noise: Float[Array, "n residues 3"]


def make_task(
    train: Sequence[ChainRows | Streamed],
    validation: ChainRows,
    *,
    model: FlowTransformer,
    clusters: Sequence[np.ndarray] | None = None,
    target: str = "plain",
    self_conditioning: float = 0.5,
    distogram_weight: float = 1.0,
    augmentation: str = "haar",
    time: float = 0.9,
    times: Sequence[float] = TIMES,
    measure: es.Measure,
    evaluation_batch: int,
    seed: int,
) -> Task:
    """The task on given chains.

    The training loss is the published one: the squared error of velocities, each chain's weighted by its flow time;
    where the model updates pairs, `distogram_weight` times a cross entropy of distances besides. `self_conditioning` is
    the share of batches in which the network sees a first guess of its own. With `target` "rao_blackwell" a velocity
    is learned towards the mean over all turns that a noisy chain may have had, which is the same on average.

    `time` is the flow time of what is decomposed; the score "times" does so at each of `times`, without a guess, with
    the same noise and rotations at all, and "gradients_by_time" takes the gradients of the components there.

    Raises ValueError for an unknown target or augmentation, for times that are not from 0 to below 1, and for mean
    targets of chains that are not turned at random: their mean over turns is not what is seen.
    """
    for name, value, known in (("target", target, TARGETS), ("augmentation", augmentation, AUGMENTATIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
    if target == "rao_blackwell" and augmentation not in TURNED_BY:
        known = " or ".join(TURNED_BY)
        raise ValueError(f"target rao_blackwell with augmentation {augmentation!r}: it is for chains turned by {known}")
    if not all(0 <= t < 1 for t in (time, *times)):
        raise ValueError(f"time={time}, times={tuple(times)}: give flow times from 0 to below 1")
    turn, turned_by, prior = AUGMENTATIONS[augmentation], TURNED_BY.get(augmentation), prior_of(measure)
    validation_noise, element_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
    symmetry = es.Symmetry(measure, act_in=TURNED, act_out=es.vectors)

    def at(rows: ChainRows, noised: Array, t: Float[Array, " n"]) -> Chain:
        x = path.interpolate(noised, rows.positions, t)
        return Chain(x, rows.index, rows.breaks, t, jnp.zeros_like(x), jnp.zeros(len(x)))

    def init(key):
        rows = jax.tree.map(lambda a: a[:1], validation)
        return model.init(key, at(rows, jnp.zeros_like(rows.positions), jnp.zeros(1)))["params"]

    def flow(params, x: Chain) -> Flow:
        return model.apply({"params": params}, x)

    def sample(rows: ChainRows, key: PRNGKeyArray) -> Noised:
        turn_key, time_key, noise_key = jax.random.split(key, 3)
        n = len(rows.positions)
        if turn is not None:
            g = jax.vmap(turn)(jax.random.split(turn_key, n))
            rows = rows._replace(positions=actions.apply(es.vectors, g, rows.positions))
        noised = noise(noise_key, jnp.arange(n), rows.index > 0, centred=True)
        return Noised(at(rows, noised, path.draw_times(time_key, n)), rows.positions, noised)

    def loss(params, batch: Noised, key: PRNGKeyArray, target: str = target):
        x, t = batch.x, batch.x.time

        def guessed(x: Chain) -> Chain:
            first = jax.lax.stop_gradient(path.to_clean(flow(params, x).velocity, x.positions, t))
            return x._replace(guess=first, guessed=jnp.ones_like(t))

        if self_conditioning > 0:
            x = jax.lax.cond(jax.random.uniform(key) < self_conditioning, guessed, lambda x: x, x)
        found, wanted = flow(params, x), batch.clean - batch.noise
        if target == "rao_blackwell":
            mean = path.turned_mean(batch.clean, x.positions, t, turned_by)
            wanted += (mean - batch.clean) / (1 - t[:, None, None])
        of_chains = path.weight(t) * path.mean_square(found.velocity - wanted, x.mask)
        if found.distogram is not None:
            of_chains += distogram_weight * (t > LATE) * distogram_loss(found.distogram, batch.clean, x.mask)
        return of_chains.mean()

    def pair(rows: ChainRows, t: float = time) -> Pair:
        mask = rows.index > 0
        noised = noise(validation_noise, rows.ids, mask, centred=True)
        x = at(rows, noised, jnp.full(len(rows.ids), t))
        lost = path.lost_to_rotation(rows.positions, x.positions, x.time, mask, prior)
        return Pair(x, rows.positions - noised, rows.weight, mask, lost)

    def predict(params, x: Chain):
        return flow(params, x).velocity

    def at_times(params, rows: ChainRows) -> Decomposition:
        """Decompositions side by side, one for each of the times."""

        def one(t):
            x, y, weight, mask, lost = pair(rows, t)
            known = {"irreducible": lost, "irreducible_from": KNOWN_FROM}
            return decompose(
                lambda x: predict(params, x), symmetry, x, y, key=element_key, mask=mask, weight=weight, **known
            )

        return jax.lax.map(one, jnp.asarray(times, jnp.float32))

    def gradients_at_times(params, rows: ChainRows) -> tuple[Mapping[str, Array], Norms]:
        """The losses and the norms of their gradients, side by side for each of the times."""

        def one(t):
            x, y, weight, mask, _ = pair(rows, t)
            found = gradients(predict, params, symmetry, x, y, key=element_key, mask=mask, weight=weight)
            return found.losses, found.norms

        return jax.lax.map(one, jnp.asarray(times, jnp.float32))

    def noise_of_gradients(params, rows: ChainRows) -> dict[str, Spread]:
        """Of the losses of both targets, over turns, times and noise of the same chains."""

        def of(target):
            def drawn(params, key):
                return loss(params, sample(rows, key), key, target)

            return gradient_spread(drawn, params, jax.random.fold_in(element_key, 1))

        return {target: of(target) for target in TARGETS}

    scores = {
        "times": Score(at_times, functools.partial(times_record, times=times)),
        "gradients_by_time": Score(gradients_at_times, functools.partial(gradients_record, times=times)),
    }
    if augmentation in TURNED_BY:
        scores["gradient_noise"] = Score(noise_of_gradients, spread_record)
    return Task(
        name=f"flow matching of chains, augmentation {augmentation}",
        init=init,
        train=train,
        sample=sample,
        loss=loss,
        validation=batches(validation, evaluation_batch),
        pair=pair,
        predict=predict,
        symmetry=symmetry,
        element_key=element_key,
        irreducible_from=KNOWN_FROM,
        scores=scores,
        clusters=clusters,
    )


def distogram_loss(
    logits: Float[Array, "n residues residues classes"],
    clean: Float[Array, "n residues 3"],
    mask: Bool[Array, "n residues"],
) -> Float[Array, " n"]:
    """Mean cross entropy over all pairs of a chain: classes of its distances, even up to 1 nm, the last for beyond."""
    limits = jnp.linspace(0, FAR, logits.shape[-1] - 1)
    of_pairs = jnp.searchsorted(limits, distances(clean, clean), side="left")
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), of_pairs[..., None], -1)[..., 0]
    both = mask[:, :, None] & mask[:, None]
    return jnp.where(both, entropy, 0).sum((1, 2)) / jnp.maximum(both.sum((1, 2)), 1)


def gradients_record(
    batches: Sequence[tuple[Mapping[str, Array], Norms]], times: Sequence[float]
) -> dict[str, dict[str, float]]:
    """By flow time, under the names of `Gradients.record`: losses and norms of their gradients, means over batches."""
    found = {}
    for i, t in enumerate(times):
        rows = []
        for losses, norms in batches:
            at = Norms(*(a[i] for a in norms))
            numbers = {f"loss_{name}": a[i] for name, a in losses.items()}
            numbers |= {f"gradient_{name}": a for name, a in at._asdict().items()} | {"gradient_purity": at.purity}
            rows.append(numbers)
        found[f"{t:g}"] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return found


def times_record(batches: Sequence[Decomposition], times: Sequence[float]) -> Mapping[str, Any]:
    """By flow time ("0.9"), plain numbers: loss of velocities and its parts, percents of it and of what is reducible,
    and the loss of clean positions, which is (1 - t)^2 of it; each with its standard error.
    """
    found: dict[str, Any] = {}
    for i, t in enumerate(times):
        d = functools.reduce(operator.add, (jax.tree.map(lambda a: a[i], b) for b in batches))  # noqa: B023
        row: dict[str, Any] = {}
        for name in ("total", "mean", "equiv", "percent", "percent_reducible"):
            row |= {name: float(getattr(d, name)), f"{name}_stderr": float(getattr(d, f"{name}_stderr", np.nan))}
        row["total_of_clean"] = row["total"] * (1 - t) ** 2
        row["floor"] = float(d.floor)
        found[f"{t:g}"] = row
    return found


def make_model(preset: str, **fields) -> FlowTransformer:
    """A model by preset name, with single fields overridden. Raises ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"model preset {preset!r} is none of {', '.join(PRESETS)}")
    return FlowTransformer(**PRESETS[preset] | fields)


def from_config(config: ConfigDict, augmentation: str, cache_dir: str | None = None) -> FlowExperiment:
    """The configured task with one of its augmentations. Chains are made in seconds, so that no cache is needed.

    Raises what `make_model`, `parse_measure`, `chain_sets.load` and `make_task` raise.
    """
    given = config.model
    fields: dict[str, Any] = {"rows_at_once": given.rows_at_once or None, "remat": given.remat}
    fields |= {} if given.update_every < 0 else {"update_every": given.update_every}
    fields |= {"triangles": True} if given.triangles else {}
    fields |= {} if given.dtype == "float32" else {"dtype": jnp.dtype(given.dtype)}
    model, measure = make_model(given.preset, **fields), parse_measure(config.measure)
    sets = load(config)
    task = make_task(
        sets.train,
        sets.validation,
        model=model,
        clusters=sets.clusters,
        target=config.target,
        self_conditioning=config.self_conditioning,
        distogram_weight=config.distogram_weight,
        augmentation=augmentation,
        time=config.time,
        times=config.times,
        measure=measure,
        evaluation_batch=config.evaluation.batch_size,
        seed=config.seed,
    )
    what = "chains" if config.data.folder else "synthetic chains"
    named = task._replace(name=f"flow matching of {what}, augmentation {augmentation}")
    return FlowExperiment(named, model, sets.measured, sets.reports)
