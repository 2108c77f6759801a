"""One training step as one program: make the batch, differentiate, update, and say if anything was not finite."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from equiscale.parameters import group_names
from equiscale.tasks.task import Rows, Task
from equiscale.training.devices import spread_examples
from equiscale.training.settings import Settings
from equiscale.training.state import TrainState


class Report(NamedTuple):
    """Of one step: its loss, and which parameter groups have a gradient that is not finite."""

    loss: Float[Array, ""]
    finite: Bool[Array, ""]
    group_finite: Bool[Array, " groups"]


Keys = dict[str, PRNGKeyArray]


def keys_of(seed: int) -> Keys:
    """Everything random in a run, from its seed."""
    order, sample, dropout = jax.random.split(jax.random.key(seed), 3)
    return {"order": order, "sample": sample, "dropout": dropout, "init": jax.random.fold_in(jax.random.key(seed), 3)}


def make_update(
    task: Task, optimizer: optax.GradientTransformation, settings: Settings, mesh: Mesh
) -> Callable[[TrainState, Rows, Keys], tuple[TrainState, Report]]:
    """`(state, rows, keys) -> (state, report)`, to be jitted. An update that is not finite is not made.

    Raises ValueError for a batch that does not divide into `accumulate` parts.
    """
    parts = settings.accumulate
    if settings.batch_size % parts:
        raise ValueError(f"a batch of {settings.batch_size} does not divide into accumulate={parts} parts")

    def gradient_of(params, batch, key):
        """Loss and gradient of the whole batch, `parts` of it one after the other."""
        if parts == 1:
            return jax.value_and_grad(task.loss)(params, spread_examples(batch, mesh), key)
        split = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), batch)

        def add(total, part):
            i, piece = part
            found = jax.value_and_grad(task.loss)(params, spread_examples(piece, mesh), jax.random.fold_in(key, i))
            return jax.tree.map(lambda t, f: t + f / parts, total, found), None

        zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
        return jax.lax.scan(add, zero, (jnp.arange(parts), split))[0]

    def update(state: TrainState, rows: Rows, keys: Keys):
        step = state.step
        batch = task.sample(rows, jax.random.fold_in(keys["sample"], step))
        loss, gradient = gradient_of(state.params, batch, jax.random.fold_in(keys["dropout"], step))

        names = group_names(state.params)
        sound = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]
        groups = [
            jnp.stack([s for s, n in zip(sound, names, strict=True) if n == g]).all() for g in dict.fromkeys(names)
        ]
        report = Report(loss, jnp.isfinite(loss) & jnp.stack(groups).all(), jnp.stack(groups))

        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        follow = 1 - settings.ema_decay
        ema = jax.tree.map(lambda e, p: e + follow * (p - e), state.ema, params) if settings.ema_decay else {}
        made, kept = (params, ema, opt_state), (state.params, state.ema, state.opt_state)
        made = jax.tree.map(lambda new, old: jnp.where(report.finite, new, old), made, kept)
        recent = state.recent + jnp.where(report.finite, jnp.stack([loss, jnp.ones_like(loss)]), 0)
        return TrainState(step + 1, *made, state.skipped + ~report.finite, recent), report

    return update
