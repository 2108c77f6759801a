"""Does a network encode each orientation in a way of its own? Decoders trained on one orientation, tried on the others.

A U-Net's encoder (all up to the middle block, with what it hands to the decoder at each level) is frozen. For each of
some rotations r of the cube a decoder D_r is trained on molecules turned by r alone, inputs and targets alike, and
then tried on the same molecules turned by each s:

    M[r, s] = E |D_r(phi(s x)) - s y|^2            as it is,
    B[r, s] = E |D_r(g phi(s x)) - r y|^2          features turned back, g = r s^-1,

per voxel and channel. Both are constant in s for what is exactly equivariant: M for the network, encoder and decoder,
B for the encoder alone, whatever the decoder is, since then g phi(s x) = phi(r x). An encoder that represents
orientations redundantly, each in features of its own (arXiv 2507.09753), shows in B; in M there is besides what D_r
itself has not learned of other orientations. The redundancy index is the mean off the diagonal over that on it.

"Turned by r alone" needs a pose to start from: that of a molecule's principal axes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

import equiscale as es
from equiscale import frozen
from equiscale.actions import apply
from equiscale.parameters import by_path, group_names, select
from equiscale.tasks.task import Params, Task
from equiscale.training.batches import Feed
from equiscale.training.devices import spread_examples

CHUNK = 10  # steps between two looks at the losses
Vector = Float[Array, " n"]  # the parameters of a decoder
Rotation = Float[Array, "3 3"]


# --- molecules in one pose -------------------------------------------------------------------------------------


def principal_pose(positions: Float[Array, "atoms 3"], species: Int[Array, " atoms"]) -> Float[Array, "atoms 3"]:
    """Centred positions turned so that second moments are largest along x and smallest along z.

    The sides are those of positive third moments along x and y; z follows, since a mirror image is another molecule.
    """
    moments = jnp.einsum("ai,aj->ij", positions, positions, precision="highest")
    axes = jnp.linalg.eigh(moments)[1].T[::-1]  # rows, the longest first
    third = jnp.power(es.vectors(axes, positions), 3).sum(0)
    x, y = axes[:2] * jnp.where(third[:2] < 0, -1, 1)[:, None]
    return jnp.where(species[:, None] > 0, es.vectors(jnp.stack([x, y, jnp.cross(x, y)]), positions), 0)


def in_pose(task: Task) -> Task:
    """A task of molecules that are not turned in training, with all of them in their principal pose."""

    def posed(rows):
        return rows._replace(positions=jax.vmap(principal_pose)(rows.positions, rows.species))

    return task._replace(
        sample=lambda rows, key: task.sample(posed(rows), key), pair=lambda batch: task.pair(posed(batch))
    )


# --- a network in two halves -----------------------------------------------------------------------------------


def split_parameters(params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
    """Encoder and decoder of a U-Net, plain or steerable, by path: the decoder is all from the first `up_` on.

    Raises ValueError naming what there is for other models.
    """
    groups = list(dict.fromkeys(group_names(params)))
    decoder = [name for name in groups if name.startswith("up_") or name in ("norm", "head")]
    if not {"head", "up_0", "down_0"} <= set(groups):
        raise ValueError(f"only a U-Net has an encoder (down_0, ...) and a decoder (up_0, ...), not {groups}")
    of_decoder = select(params, *(f"{name}/*" for name in decoder))
    return {path: leaf for path, leaf in by_path(params).items() if path not in of_decoder}, of_decoder


class Halves(NamedTuple):
    """`run(encoder, x, vector)` gives the features of x and `decode(vector, features)`; `vector_of` decoders as one."""

    run: Callable[[dict[str, Array], Array, Vector], tuple[list[Array], Callable[[Vector, list[Array]], Array]]]
    vector_of: Callable[[Params], Vector]


def cut(task: Task) -> Halves:
    """The task's network, cut where its program first meets a parameter of the decoder: at the middle block and skips.

    Raises what `split_parameters` raises.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), split_parameters(shapes)[1])
    unravel = ravel_pytree(zeros)[1]

    def whole(vector, given):
        encoder, x = given
        leaves = encoder | unravel(vector)
        return task.predict(jax.tree.unflatten(jax.tree.structure(shapes), [leaves[p] for p in by_path(shapes)]), x)

    def run(encoder, x, vector):
        parts = frozen.split(whole, vector, (encoder, x))
        constants = parts.constants()
        return parts.known(constants, (encoder, x)), lambda vector, features: parts.rest(vector, constants, features)

    return Halves(run, lambda params: ravel_pytree(split_parameters(params)[1])[0])


def turn_features(g: Rotation, features: list[Array]) -> list[Array]:
    """Channels-last grids turned. Raises ValueError for what is none."""
    for f in features:
        if f.ndim != 5 or len(set(f.shape[1:4])) != 1:
            raise ValueError(f"a feature of shape {list(f.shape)} is no grid [batch, l, l, l, c], and cannot be turned")
    return [jnp.moveaxis(es.grid(g, jnp.moveaxis(f, -1, 1)), 1, -1) for f in features]


# --- training and trying a decoder -----------------------------------------------------------------------------


class Program(NamedTuple):
    """Jitted: one training step of a decoder, and its losses on a validation batch.

    `update(state, encoder, rows, turns, key) -> (state, loss)`: examples are turned by one of `turns` each.
    `losses(encoder, vector, own, turns, batch) -> (M, B, weight)`, `[turns, batch]` each but the weight, own being r.
    """

    start: Callable[[Vector], Any]
    update: Callable[..., tuple[Any, Array]]
    losses: Callable[..., tuple[Array, Array, Array]]


def make_program(task: Task, optimizer: optax.GradientTransformation, mesh: Mesh, *, turn_back: bool = True) -> Program:
    """The program of a task of grids. Without `turn_back`, which needs channels that do not mix, B is NaN."""
    halves = cut(task)

    @jax.jit
    def update(state, encoder, rows, turns, key):
        vector, opt_state = state
        sample_key, turn_key = jax.random.split(key)
        x, y = spread_examples(task.sample(rows, sample_key), mesh)
        g = turns[jax.random.randint(turn_key, (len(x),), 0, len(turns))]
        x, y = jax.vmap(es.grid)(g, x), jax.vmap(es.grid)(g, y)
        features, decode = halves.run(encoder, x, vector)
        loss, gradient = jax.value_and_grad(lambda v: jnp.square(decode(v, features) - y).sum() / len(y))(vector)
        changes, opt_state = optimizer.update(gradient, opt_state, vector)
        return (optax.apply_updates(vector, changes), opt_state), loss

    @jax.jit
    def losses(encoder, vector, own, turns, batch):
        x, y, weight, *_ = task.pair(spread_examples(batch, mesh))

        def turned(g, x):
            return apply(es.grid, g, x, shared=True)

        def error(prediction, target):
            return jnp.square(prediction - target).mean((1, 2, 3, 4))

        def of_turn(s):
            features, decode = halves.run(encoder, turned(s, x), vector)
            as_it_is = error(decode(vector, features), turned(s, y))
            if not turn_back:
                return as_it_is, jnp.full_like(as_it_is, jnp.nan)
            back = turn_features(es.octahedral.multiply(own, s.T), features)
            return as_it_is, error(decode(vector, back), turned(own, y))

        return *jax.lax.map(of_turn, turns), weight

    return Program(lambda vector: (vector, optimizer.init(vector)), update, losses)


def train_decoder(
    program: Program,
    feed: Feed,
    encoder: dict[str, Array],
    vector: Vector,
    turns: Float[np.ndarray, "k 3 3"],
    *,
    steps: int,
    key: PRNGKeyArray,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[Vector, Float[np.ndarray, " steps"]]:
    """A decoder trained on examples turned by one of `turns` each, and its loss at each step.

    Of the same key the examples, their noise and their order are the same, whatever the turns. Raises
    FloatingPointError naming the step when a loss is not finite.
    """
    state, found = program.start(vector), []
    for step, (_, rows) in enumerate(feed.batches(0, steps)):
        state, loss = program.update(state, encoder, rows, jnp.asarray(turns, float), jax.random.fold_in(key, step))
        found.append(loss)
        on_step()
        if step % CHUNK == CHUNK - 1 or step == steps - 1:  # the device is not waited for at every step
            bad = np.flatnonzero(~np.isfinite(jax.device_get(found)))
            if len(bad):
                raise FloatingPointError(f"the decoder's loss is not finite at step {bad[0]}: lower its learning rate")
    return state[0], np.array(jax.device_get(found))


def try_decoder(
    program: Program,
    task: Task,
    encoder: dict[str, Array],
    vector: Vector,
    own: Rotation,
    turns: Float[np.ndarray, "k 3 3"],
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "k n"]]:
    """M[r] and B[r] of every validation example, r being `own`."""
    parts = [
        jax.device_get(program.losses(encoder, vector, *(jnp.asarray(g, float) for g in (own, turns)), batch))
        for batch in task.validation
    ]
    as_it_is, back = (np.concatenate([p[i][:, p[2] > 0] for p in parts], axis=1) for i in (0, 1))
    return as_it_is, back
