"""Walk-jump sampling: walk among noisy densities, jump to clean ones (VoxMol, arXiv 2306.07473).

A denoiser xhat(y) = E[x | y] of y = x + sigma eps gives the score of the noisy density, grad log p(y) =
(xhat(y) - y) / sigma^2 (Tweedie). The walk is underdamped Langevin dynamics along it, one denoising a step,

    y <- y + delta/2 v                                                                      A
    v <- e^-gamma (v + u delta/2 grad log p(y)) + u delta/2 grad log p(y)                   B (O) B
           + sqrt(u (1 - e^-2gamma)) xi,  xi ~ N(0, 1)                                      O
    y <- y + delta/2 v                                                                      A

with gamma the friction of a whole step, u = 1 / lipschitz the variance v is to have, and both half kicks B the same,
taken before the second half of A (A-B-O-B-A). Of Gaussian data y takes exactly the noisy density's variance, however
long the step; that of v comes out larger by 1 / (1 - u delta^2 / 4 var y), 8 % as published. The jump is xhat(y); it
is looked at and does not go back into the walk.

Everything is a pure function of arrays [n, ...], n chains side by side. Call it inside `jax.jit`, with the parameters
of the denoiser as an argument; arrays spread over devices stay spread.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

Denoiser = Callable[[Float[Array, "n ..."]], Float[Array, "n ..."]]
Draw = Callable[[PRNGKeyArray, Any, tuple[int, ...]], Array]

PUBLISHED_SIGMA = 0.9


class Walk(NamedTuple):
    """Settings of a walk; the defaults are the published ones at the published sigma, 0.9.

    `sigma` of the noise the denoiser was trained on, in units of the density; `delta` the time of a step; `friction`
    over a whole step; `lipschitz` is 1 / variance of v, and named for the bound on the score's slope it stands for.
    """

    sigma: float
    delta: float = 0.5
    friction: float = 1.0
    lipschitz: float = 1.0


class State(NamedTuple):
    """n chains in the middle of a walk; a pytree whose arrays all lead with n, but for `step`.

    `y` the noisy densities, `v` their velocities, `step` how many steps they have gone, `chain` what their noise is
    drawn by: integer ids [n], or whatever a `draw` of one's own takes (a pytree, leading with n).
    """

    y: Float[Array, "n ..."]
    v: Float[Array, "n ..."]
    step: Int[Array, ""]
    chain: Any


def in_units_of(sigma: float) -> Walk:
    """The published walk at another noise level: the same in units of sigma, lipschitz = (0.9 / sigma)^2.

    As published (lipschitz 1) it diverges from sigma = 0.25 down.
    """
    return Walk(sigma, lipschitz=(PUBLISHED_SIGMA / sigma) ** 2)


def check(settings: Walk) -> None:
    """Raises ValueError for settings that are not positive, and for a step so long that every walk diverges.

    The score falls no steeper than 1 / sigma^2 (the slope of E[x | y] is a covariance over sigma^2). Where it falls as
    steeply the step is a linear map of determinant e^-gamma, whose eigenvalues stay inside the unit circle exactly
    when delta < 2 sigma sqrt(lipschitz).
    """
    for name, value in settings._asdict().items():
        if not value > 0:
            raise ValueError(f"{name}={value}: give a positive number")
    if settings.delta**2 >= 4 * settings.sigma**2 * settings.lipschitz:
        least = (settings.delta / settings.sigma) ** 2 / 4
        raise ValueError(
            f"a walk of steps delta={settings.delta} at sigma={settings.sigma} diverges: raise lipschitz from "
            f"{settings.lipschitz:.4g} to above {least:.4g}; {in_units_of(settings.sigma).lipschitz:.4g} is what the "
            "published walk has in units of sigma"
        )


def normal(key: PRNGKeyArray, chain: Int[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal noise of one chain, by its id: the same whatever chains run beside it."""
    return jax.random.normal(jax.random.fold_in(key, chain), shape)


def start(key: PRNGKeyArray, chains: Int[Array, " n"], shape: tuple[int, ...], settings: Walk) -> State:
    """Chains from nothing: sigma N(0, 1) + U(0, 1) for each voxel, as published, and at rest.

    Raises what `check` raises.
    """
    state = start_from(key, chains, jnp.zeros((len(chains), *shape)), settings)
    # Step numbers count up from 0, so the keys folded in from the other end are nobody else's.
    uniform_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
    lift = jax.vmap(lambda c: jax.random.uniform(jax.random.fold_in(uniform_key, c), shape))(chains)
    return state._replace(y=state.y + lift)


def start_from(
    key: PRNGKeyArray, chains: Any, clean: Float[Array, "n ..."], settings: Walk, draw: Draw = normal
) -> State:
    """Chains from clean densities, one each, with noise added: clean + sigma xi, at rest.

    Raises what `check` raises.
    """
    check(settings)
    y = clean + settings.sigma * _noise(key, jnp.zeros((), int), chains, clean, draw)
    return State(y, jnp.zeros_like(y), jnp.zeros((), int), chains)


def _noise(key, number, chains, like, draw) -> Float[Array, "n ..."]:
    """What the `number`-th drawing of each chain is: 0 its start, k its k-th step."""
    key = jax.random.fold_in(key, number)
    return jax.vmap(lambda chain: draw(key, chain, like.shape[1:]))(chains).astype(like.dtype)


def score(denoise: Denoiser, y: Float[Array, "n ..."], sigma: float) -> Float[Array, "n ..."]:
    """grad log p(y) = (xhat(y) - y) / sigma^2 of the noisy density (Tweedie's formula)."""
    return (denoise(y).astype(y.dtype) - y) / sigma**2


def walk(
    denoise: Denoiser,
    state: State,
    n_steps: int | Int[Array, ""],
    key: PRNGKeyArray,
    settings: Walk,
    draw: Draw = normal,
) -> State:
    """`n_steps` further steps, in the walk whose noise comes from `key`, one denoising each.

    The noise of a step is `draw(key of the step, chain, shape)`, so what a chain goes through depends on `key`, on
    its own entry of `state.chain` and on how far it has gone. Give the `key` of the start: then walking on from a
    saved state is walking without having stopped, to the bit where the same program runs, and chains beside it
    change a chain by no more than the denoiser's rounding. `n_steps` may be traced: any number, compiled once.

    Raises what `check` raises.
    """
    check(settings)
    sigma, delta, friction, lipschitz = settings
    damping = math.exp(-friction)
    half_kick = delta / 2 / lipschitz
    spread = math.sqrt((1 - damping**2) / lipschitz)

    def step(_, state):
        y, v, done, chains = state
        y = y + delta / 2 * v
        kick = half_kick * score(denoise, y, sigma)
        v = damping * (v + kick) + kick + spread * _noise(key, done + 1, chains, y, draw)
        return State(y + delta / 2 * v, v, done + 1, chains)

    return jax.lax.fori_loop(0, n_steps, step, state)


def jump(denoise: Denoiser, state: State) -> Float[Array, "n ..."]:
    """The clean densities xhat(y) that the chains now stand for."""
    return denoise(state.y)
