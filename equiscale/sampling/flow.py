"""Sampling of chains by a flow: from noise along a network's velocities, as they are or with noise (arXiv 2503.00710).

    ODE   x <- x + v dt
    SDE   x <- x + (v + g s) dt + sqrt(2 g gamma dt) eps,   s = (t v - x) / (1 - t) the score, g = 1 / (t + 0.01)

With gamma = 1 the SDE has the ODE's distribution at every time; less noise draws samples to the likeliest. Towards the
end the score is not to be trusted, and the ODE takes over. Positions are in nm; after each step their mean is 0.

Everything is a pure function of arrays `[n, residues, 3]`, n chains side by side, to be called inside `jax.jit`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from equiscale.data.point_noise import noise
from equiscale.data.voxels import centre
from equiscale.models import flow_path as path
from equiscale.models.flow_transformer import Chain

Positions = Float[Array, "n residues 3"]
Velocity = Callable[[Chain], Positions]
Guide = Callable[[Positions, Chain], Positions]
LAST_SCORE = 0.99  # flow time from which on the ODE is followed
GRIDS = ("log", "uniform")


class Sampling(NamedTuple):
    """How to sample; the defaults are the published ones.

    Attributes:
      steps: of the integration.
      grid: of the times, "log" (fine near the data) or "uniform".
      noise_scale: gamma, the variance of the SDE's noise relative to that which keeps the distribution; None: the ODE.
      self_conditioning: each step sees the clean positions that the step before guessed.
    """

    steps: int = 400
    grid: str = "log"
    noise_scale: float | None = 0.4
    self_conditioning: bool = False


def times_of(sampling: Sampling) -> Float[np.ndarray, " steps+1"]:
    """Flow times from 0 to 1: (1 - 10^(-2 i / n)) / 0.99, or evenly. Raises ValueError for settings out of range."""
    if sampling.steps < 1 or sampling.grid not in GRIDS or (sampling.noise_scale or 0) < 0:
        raise ValueError(
            f"steps={sampling.steps}, grid={sampling.grid!r}, noise_scale={sampling.noise_scale}: give at least one "
            f"step, a grid of {', '.join(GRIDS)} and no negative scale"
        )
    i = np.arange(sampling.steps + 1) / sampling.steps
    return i if sampling.grid == "uniform" else (1 - 10.0 ** (-2 * i)) / (1 - 10.0**-2)


def start(
    key: PRNGKeyArray, ids: Int[Array, " n"], index: Int[Array, "n residues"], breaks: Bool[Array, "n residues"]
) -> Chain:
    """Chains of noise, each drawn by its id: the same in any batch. `index` counts residues from 1, 0 is padding."""
    x = noise(jax.random.fold_in(key, 0), ids, index > 0, centred=True)
    none = jnp.zeros(len(ids))
    return Chain(x, index, breaks, none, jnp.zeros_like(x), none)


def sample(
    velocity: Velocity,
    chain: Chain,
    key: PRNGKeyArray,
    ids: Int[Array, " n"],
    sampling: Sampling,
    *,
    guide: Guide | None = None,
    turns: Float[Array, "n 3 3"] | None = None,
) -> Positions:
    """Where the chains of `start` end.

    `guide(clean, chain)` may change the clean positions that the network guesses at each step, before they give its
    velocity. With `turns` the noise of each chain is turned along, as its start is to be: an equivariant model's
    samples then are the turned samples.
    """
    times = times_of(sampling)

    def step(chain: Chain, at: tuple[Array, Array, Array]) -> tuple[Chain, None]:
        i, t, dt = at
        chain = chain._replace(time=jnp.full(len(ids), t, chain.positions.dtype))
        x, mask = chain.positions, chain.index > 0
        clean = centre(path.to_clean(velocity(chain), x, chain.time), mask)
        if guide is not None:
            clean = centre(guide(clean, chain), mask)
        v = path.to_velocity(clean, x, chain.time)
        moved = x + v * dt
        if sampling.noise_scale is not None:
            eps = noise(jax.random.fold_in(key, i + 1), ids, mask, centred=True)
            eps = eps if turns is None else jnp.einsum("nij,naj->nai", turns, eps, precision="highest")
            g = 1 / (t + 0.01)
            drift = g * (t * v - x) / (1 - t)
            noisy = moved + drift * dt + jnp.sqrt(2 * g * sampling.noise_scale * dt) * eps
            moved = jnp.where(t <= LAST_SCORE, noisy, moved)
        chain = chain._replace(positions=centre(moved, mask))
        if sampling.self_conditioning:
            chain = chain._replace(guess=clean, guessed=jnp.ones(len(ids)))
        return chain, None

    steps = jnp.arange(sampling.steps), jnp.asarray(times[:-1]), jnp.asarray(np.diff(times))
    ended, _ = jax.lax.scan(step, chain, steps)
    return ended.positions
