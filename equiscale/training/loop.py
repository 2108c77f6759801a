"""The training loop: evaluate, update, log, save; from step 0 or from where a run was interrupted."""

import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray
from tqdm import tqdm

from equiscale.tasks.task import Task, first_of
from equiscale.training import checkpoints
from equiscale.training.run_folder import MetricLog
from equiscale.training.state import TrainState, init_state


class Settings(NamedTuple):
    """How long, how fast, how often."""

    steps: int
    batch_size: int
    learning_rate: float
    b1: float
    weight_decay: float
    warmup: int
    evaluations: int
    seed: int
    gradient_examples: int = 0  # of the first validation batch, on which the components' gradients are measured too
    keep: int | None = 2  # checkpoints, the last ones; None keeps all


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """AdamW after a linear warm-up of `warmup` steps."""
    top = settings.learning_rate
    rate = optax.linear_schedule(top / (settings.warmup + 1), top, settings.warmup)
    return optax.adamw(rate, b1=settings.b1, b2=0.999, weight_decay=settings.weight_decay)


def evaluation_steps(steps: int, n: int) -> list[int]:
    """0, then about n - 1 log-spaced steps up to the last: the early ones are where symmetry is learned."""
    return sorted({0, steps, *np.rint(np.geomspace(1, max(steps, 1), max(n - 1, 1))).astype(int).tolist()})


def batch_indices(key: PRNGKeyArray, step: Int[Array, ""], n: int, batch_size: int) -> Int[Array, " batch"]:
    """Rows of a step's batch: consecutive slices of a new permutation each epoch, a pure function of (key, step).

    A set smaller than a batch is repeated within it.
    """
    per_epoch = max(n // batch_size, 1)
    order = jax.random.permutation(jax.random.fold_in(key, step // per_epoch), n)
    return order[(step % per_epoch * batch_size + jnp.arange(batch_size)) % n]


def make_sampler(task: Task, settings: Settings):
    """The jitted `(data, step) -> batch`, a pure function of (seed, step)."""
    order_key, sample_key, _ = jax.random.split(jax.random.key(settings.seed), 3)
    n = len(jax.tree.leaves(task.train_data)[0])

    @jax.jit
    def sample(data: Any, step: Int[Array, ""]):
        indices = batch_indices(order_key, step, n, settings.batch_size)
        return task.sample(data, indices, jax.random.fold_in(sample_key, step))

    return sample


def make_update(task: Task, optimizer: optax.GradientTransformation, settings: Settings):
    """The jitted `(state, batch) -> (state, loss)`; dropout follows from (seed, step)."""
    dropout_key = jax.random.split(jax.random.key(settings.seed), 3)[2]

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, batch: Any):
        key = jax.random.fold_in(dropout_key, state.step)
        loss, gradient = jax.value_and_grad(task.loss)(state.params, batch, key)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), loss

    return update


def untrained_params(task: Task, settings: Settings) -> Any:
    """The parameters that a run of these settings starts from."""
    return jax.jit(task.init)(_init_key(settings))


def _init_key(settings: Settings) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.key(settings.seed), 3)


def train(task: Task, settings: Settings, folder: pathlib.Path, *, title: str) -> TrainState:
    """Train a task in its run folder, going on from the latest checkpoint if there is one.

    At every evaluation step, before the update, so that step 0 is the untrained model: decompose the validation
    loss, measure the components' gradients if asked to, append a row to `metrics.jsonl`, save a checkpoint.

    Raises FloatingPointError naming the step when a loss is not finite; the last good checkpoint is kept.
    """
    optimizer = make_optimizer(settings)
    fresh = init_state(task, optimizer, _init_key(settings))
    sample, update = make_sampler(task, settings), make_update(task, optimizer, settings)
    evaluate, measure_gradients = jax.jit(task.evaluate), jax.jit(task.gradients)
    wanted = evaluation_steps(settings.steps, settings.evaluations)
    with checkpoints.open_checkpoints(folder, settings.keep) as saved:
        state = checkpoints.restore_latest(saved, fresh) or fresh
        first = int(state.step)
        log = MetricLog(folder, up_to_step=first)
        began, losses = time.time(), []
        with tqdm(total=settings.steps, initial=first, desc=title, unit="step") as bar:
            for step in range(first, settings.steps + 1):
                if step in wanted and step not in log.steps:
                    d = sum(evaluate(state.params, batch) for batch in task.validation)
                    training_loss = _finite_mean(losses, step)
                    losses.clear()
                    row = {"step": step, "training_loss": training_loss, **_checked(d, step).record()}
                    if settings.gradient_examples:
                        few = first_of(task.validation[0], settings.gradient_examples)
                        row["gradients"] = measure_gradients(state.params, few).record(depth=1)
                    log.write(row | {"seconds": time.time() - began})
                    checkpoints.save(saved, state)
                    bar.set_postfix(loss=f"{float(d.total):.3g}", equiv=f"{float(d.percent):.2f}%")
                if step < settings.steps:
                    state, loss = update(state, sample(task.train_data, state.step))
                    losses.append(loss)
                    bar.update()
    return state


def _finite_mean(losses: list[Array], step: int) -> float | None:
    """The mean training loss since the last evaluation; None before the first update."""
    if not losses:
        return None
    values = np.asarray(jnp.stack(losses))
    if not np.isfinite(values).all():
        bad = step - len(values) + int(np.argmin(np.isfinite(values)))
        raise FloatingPointError(f"the training loss became {values[bad - step + len(values)]} at step {bad}")
    return float(values.mean())


def _checked(d, step: int):
    try:
        return d.check()
    except FloatingPointError as error:
        raise FloatingPointError(f"evaluation at step {step}: {error}") from error
