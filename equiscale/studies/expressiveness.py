"""What can a spherical network tell apart, and is it expressiveness or broken symmetry? Two tests with their controls.

The n-fold test (Table 4 of arXiv 2505.23086): a star of n spokes and the same star turned about its axis by less than
its symmetry are to be told apart from the sum of their atoms' features. A star is what it is after a turn by 2 pi / n,
so all features of an equivariant network of degrees below n that see it are even around the axis, and the same for
both: 50 % is a theorem for L < n, and any more is an error of equivariance. The control turns the points at random,
which changes nothing for an equivariant network: what survives is expressiveness, what does not is broken symmetry.

The cross product of two vectors: all that is done point by point on the sphere commutes with p -> -p, so a network of
natural parities, out of such parts alone, gives vectors that turn over with their inputs; a x b does not.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from equiscale.data.graphs import Graph, within
from equiscale.models.spherical_transformer import KINDS, SphericalTransformer
from equiscale.rotations import random_rotation
from equiscale.wigner import wigner_d

RADIUS, CUTOFF = 1.0, 2.0  # angstrom
RATE, EPOCHS = 1e-4, 100  # Adam, one star at a time, as published
TURNS = 8  # random turns of the points in the control
# The compiler takes most of the time: with these a third of it, and the program is no slower.
QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
# Spokes; stars of more are computed apart from these, which would be padding for the most part, and a star, a seed and
# so many edges at a time: all together they would take 40 GB at degree 10.
FEW, EDGES = 10, 2_048


class Accuracy(NamedTuple):
    """Of one network: shares of right answers, and how far the two stars' features differ."""

    best: Float[Array, "*any"]  # of the best epoch, as published
    final: Float[Array, "*any"]
    control: Float[Array, "*any"]  # after training, with points turned at random
    difference: Float[Array, "*any"]  # |F(X) - F(QX)| / |F(X)|, untrained


def make(kind: str, degree: int, points: int, channels: int) -> SphericalTransformer:
    """One layer, small, of a kind of `spherical_transformer.KINDS`; its points are never turned by itself."""
    small = {"channels": channels, "hidden": 2 * channels, "n_layers": 1, "n_rbf": 8, "radial_width": 32}
    fields = KINDS[kind] | {"turned": False, "degree": degree, "points": points, "cutoff": CUTOFF, "n_species": 4}
    return SphericalTransformer(**fields | small | {"n_heads": 1})


def stars(n: Int[Array, ""], turn: Float[Array, ""], most: int) -> Graph:
    """Two stars of `n` spokes, padded to `most`, the second turned about z by `turn` in radians.

    Edges are between the centre and spokes alone.
    """
    spoke = jnp.arange(most)
    angle = 2 * jnp.pi * spoke / n + jnp.stack([jnp.zeros_like(turn), turn])[:, None]
    spokes = jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)], -1) * RADIUS
    positions = jnp.concatenate([jnp.zeros((2, 1, 3)), spokes], axis=1)
    species = jnp.concatenate([jnp.ones(1, int), (spoke < n).astype(int)])
    own = jnp.broadcast_to(jnp.arange(most + 1)[:, None], (most + 1, most))
    neighbours = own.at[0].set(jnp.where(spoke < n, spoke + 1, 0)).at[1:, 0].set(jnp.where(spoke < n, 0, spoke + 1))
    graph = Graph(positions, species, neighbours, neighbours != own, jnp.zeros((*own.shape, 3), int), jnp.zeros((3, 3)))
    both = jax.tree.map(lambda a: jnp.broadcast_to(a, (2, *a.shape)), graph._replace(positions=species))
    return both._replace(positions=positions)


@functools.partial(jax.jit, static_argnames=("model", "most", "epochs"))
def n_fold(
    model: SphericalTransformer, keys: Array, folds: Array, turns: Array, *, most: int, epochs: int = EPOCHS
) -> Accuracy:
    """The test of `folds [folds]` spokes, `most` at most, for each seed `keys [seeds]`; `turns [folds, seeds]` are the
    angles between the stars. Fields are `[folds, seeds]`.
    """
    large = most > FEW
    model = model.clone(items_at_once=EDGES) if large else model

    def one(n, key, turn) -> Accuracy:
        graph = stars(n, turn, most)
        init_key, head_key, turn_key = jax.random.split(key, 3)
        network = model.init(init_key, graph)["params"]
        width = (model.degree + 1) ** 2 * model.channels
        head = jax.random.normal(head_key, (width, 2)) / width**0.5

        def features(network, graph):
            if large and len(graph.species) > 1:
                apart = jax.tree.map(lambda a: a[:, None], graph)
                return jax.lax.map(lambda star: features(network, star)[0], apart)
            h = model.apply({"params": network}, graph, method="atoms")
            return jnp.sum(jnp.where(graph.is_atom[..., None, None], h, 0), axis=1)

        def logits(params, of):
            return of.reshape(len(of), -1) @ params["head"]

        def loss(params, which):
            star = jax.tree.map(lambda a: a[which, None], graph)
            found = logits(params, features(params["network"], star))
            return optax.softmax_cross_entropy_with_integer_labels(found, which[None])[0]

        def right(params, of):
            return jnp.mean(jnp.argmax(logits(params, of), -1) == jnp.arange(2))

        adam = optax.adam(RATE)

        def learn(i, carry):
            params, state = carry
            update, state = adam.update(jax.grad(loss)(params, i), state)
            return optax.apply_updates(params, update), state

        def epoch(carry, _):
            params, state = jax.lax.fori_loop(0, 2, learn, carry)
            return (params, state), right(params, features(params["network"], graph))

        params = {"network": network, "head": head}
        first, second = features(network, graph)
        (params, _), history = jax.lax.scan(epoch, (params, adam.init(params)), length=epochs)

        def with_points_turned(key):
            """The network on points R p: it is the same as R^-1 of its features of the stars turned by R."""
            rotation = random_rotation(key)
            turned = graph._replace(positions=graph.positions @ rotation.T)
            back = wigner_d(rotation, model.degree).T
            return right(params, back @ features(params["network"], turned))

        control = jax.lax.map(with_points_turned, jax.random.split(turn_key, TURNS)).mean()
        difference = jnp.linalg.norm(first - second) / jnp.linalg.norm(first)
        return Accuracy(history.max(), history[-1], control, difference)

    def seeds(fold):
        n, turns = fold
        if large:
            return jax.lax.map(lambda seed: one(n, *seed), (keys, turns))
        return jax.vmap(one, (None, 0, 0))(n, keys, turns)

    return jax.lax.map(seeds, (folds, turns))


def n_fold_table(
    networks: dict[str, Callable[[int], SphericalTransformer]],
    degrees: Sequence[int],
    folds: Sequence[int],
    *,
    n_seeds: int,
    epochs: int = EPOCHS,
    skip: Callable[[dict[str, Any]], bool] = lambda row: False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> Iterator[dict[str, Any]]:
    """One row for each network (of a degree), degree and number of spokes: means over seeds, and what theory forces.

    Rows that `skip` wants, as far as they are known before, are left out. In float64: in float32 rounding that norms
    have blown up tells the stars apart, too. Raises ValueError for points that a rule does not have.
    """
    models = {(name, degree): make(degree) for name, make in networks.items() for degree in degrees}
    for model in models.values():
        model.check()
    rows = [{"network": m, "degree": d, "n": n, "possible": d >= n} for m, d in models for n in folds]
    together = {}
    for row in rows:
        if not skip(row):
            together.setdefault((row["network"], row["degree"], row["n"] > FEW), []).append(row)
    for (name, degree, _), rows in progress(list(together.items())):
        ns = [row["n"] for row in rows]
        turns = np.array([2 * np.pi / (n + np.random.default_rng(n).integers(1, n, n_seeds)) for n in ns])
        with jax.enable_x64(True):
            inputs = jax.random.split(jax.random.key(0), n_seeds), jnp.array(ns), jnp.asarray(turns)
            program = n_fold.lower(models[name, degree], *inputs, most=max(ns), epochs=epochs)
            compiled = program.compile(compiler_options=QUICK if jax.default_backend() == "cpu" else None)
            found = jax.device_get(compiled(*inputs))
        for i, row in enumerate(rows):
            for field, values in found._asdict().items():
                row |= {field: float(values[i].mean())}
                row |= {f"{field}_stderr": float(values[i].std(ddof=1) / n_seeds**0.5)}
            yield row


@functools.partial(jax.jit, static_argnames=("model", "steps", "batch"))
def cross_product(model: SphericalTransformer, key: Array, *, steps: int = 500, batch: int = 64) -> Float[Array, ""]:
    """The share of the variance of a x b that the network explains on new vectors, after training on `steps` batches.

    An atom at the origin has two neighbours of different species at a and b, of lengths around 1; the answer is read
    from its force. At most 1; 0 or less where it has learned nothing.
    """
    init_key, train_key, test_key = jax.random.split(key, 3)

    def sample(key):
        ab = jax.random.normal(key, (batch, 2, 3))
        ab = ab / jnp.linalg.norm(ab, axis=-1, keepdims=True)
        positions = jnp.concatenate([jnp.zeros((batch, 1, 3)), ab], axis=1)
        species = jnp.broadcast_to(jnp.arange(1, 4), (batch, 3))
        return within(positions, species, 2, CUTOFF), jnp.cross(ab[:, 0], ab[:, 1])

    def error(params, key):
        graph, target = sample(key)
        found = model.apply({"params": params}, graph).forces[:, 0]
        return jnp.mean(jnp.square(found - target)), jnp.mean(jnp.square(target))

    adam = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def step(carry, key):
        params, state = carry
        update, state = adam.update(jax.grad(lambda p: error(p, key)[0])(params), state)
        return (optax.apply_updates(params, update), state), None

    params = model.init(init_key, sample(test_key)[0])["params"]
    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), jax.random.split(train_key, steps))
    wrong, size = error(params, test_key)
    return 1 - wrong / size
