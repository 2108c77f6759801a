"""What a training run is, besides its task: every number the loop reads."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from equiscale.parameters import by_path, select

# By name, of a rate and the settings; all decay weights apart from the gradient.
OPTIMIZERS: dict[str, Callable[[optax.ScalarOrSchedule, "Settings"], optax.GradientTransformation]] = {
    "adamw": lambda rate, s: optax.adamw(rate, b1=s.b1, b2=s.b2, weight_decay=s.weight_decay),
    "lion": lambda rate, s: optax.lion(rate, b1=s.b1, b2=s.b2, weight_decay=s.weight_decay),
    "sgd": lambda rate, s: optax.chain(
        optax.trace(s.b1), optax.add_decayed_weights(s.weight_decay), optax.scale_by_learning_rate(rate)
    ),
}


class Settings(NamedTuple):
    """How long, how fast, how often; on how many devices is not said here, because it changes no number."""

    steps: int
    batch_size: int  # over all devices
    learning_rate: float
    optimizer: str = "adamw"  # one of OPTIMIZERS; of "sgd" b1 is the momentum
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    warmup: int = 0  # steps of linear warm-up
    final_rate: float = 1.0  # of the last step over `learning_rate`, reached along half a cosine over all steps
    clip: float | None = None  # largest global norm of a gradient
    accumulate: int = 1  # parts a batch's gradient is computed in, one after the other, to fit in memory
    ema_decay: float = 0.0  # of the averaged parameters that are evaluated beside the raw ones; 0: none are kept
    skip_nonfinite: bool = False  # leave out updates that are not finite and count them, instead of stopping
    fsdp: bool = False  # spread parameters and optimiser state over devices too
    evaluations: int = 10  # at step 0 and the last, and log-spaced from the first step on between them
    evaluate_at: tuple[int, ...] = ()  # further steps
    save_every: int = 0  # steps between checkpoints besides those at evaluations; 0: none besides
    keep: int | None = 2  # checkpoints, the last ones; None keeps all
    keep_best: int = 0  # and so many of the lowest validation loss
    seed: int = 0


def make_optimizer(settings: Settings, frozen: str = "") -> optax.GradientTransformation:
    """The optimiser of gradients clipped if asked for; its rate rises linearly, then falls if asked to.

    Parameters whose paths match `frozen` are left alone, by weight decay too, and no moments of theirs are kept.
    Raises ValueError for an unknown optimiser and a final rate that is no share; starting it, where `frozen` matches
    none.
    """
    if settings.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {settings.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    top, last = settings.learning_rate, settings.final_rate
    if not 0 <= last <= 1:
        raise ValueError(f"final_rate={last}: give the last step's share of the learning rate, 0 to 1; 1 is constant")
    rise = optax.linear_schedule(top / (settings.warmup + 1), top, settings.warmup)
    fall = optax.cosine_decay_schedule(1.0, settings.steps, alpha=last)
    rate = rise if last == 1 else lambda step: rise(step) * fall(step)
    trained = OPTIMIZERS[settings.optimizer](rate, settings)
    if settings.clip is not None:
        trained = optax.chain(optax.clip_by_global_norm(settings.clip), trained)
    if not frozen:
        return trained

    def parts(params):
        still = select(params, frozen)
        return jax.tree.unflatten(
            jax.tree.structure(params), ["still" if path in still else "trained" for path in by_path(params)]
        )

    return optax.multi_transform({"trained": trained, "still": optax.set_to_zero()}, parts)


def evaluation_steps(settings: Settings) -> set[int]:
    """As many as `evaluations`, log-spaced since symmetry is learned early, but 0 and the last; and those asked for."""
    last, few = settings.steps, settings.evaluations < 3
    spaced = [] if few else np.rint(np.geomspace(1, max(last, 1), settings.evaluations - 1)).astype(int).tolist()
    return {step for step in (0, last, *spaced, *settings.evaluate_at) if step <= last}
