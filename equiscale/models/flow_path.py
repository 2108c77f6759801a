"""Flow matching along straight lines from noise to data, with Proteina's times and weights (arXiv 2503.00710).

    x_t = (1 - t) x_0 + t x_1,   x_0 ~ N(0, 1) less its mean over residues,   velocity x_1 - x_0 = (x_1 - x_t) / (1 - t)

Lengths are in nm, in which centred chains and the noise are of one size. Chains are `[batch, n, 3]` with a mask
`[batch, n]`; times are `[batch]`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from equiscale import rotation_posterior
from equiscale.rotation_posterior import Listed

Chains = Float[Array, "batch n 3"]
Times = Float[Array, " batch"]
UNIFORM = 0.02  # of the times in training are uniform
POWER = 1.9  # the others are Beta(1.9, 1)


def draw_times(key: PRNGKeyArray, n: int) -> Times:
    """Times of training: Beta(1.9, 1), whose distribution function is t^1.9, and a few uniform ones."""
    which, at = jax.random.split(key)
    u = jax.random.uniform(at, (n,))
    return jnp.where(jax.random.uniform(which, (n,)) < UNIFORM, u, u ** (1 / POWER))


def interpolate(noise: Chains, clean: Chains, t: Times) -> Chains:
    t = t[:, None, None]
    return (1 - t) * noise + t * clean


def to_velocity(clean: Chains, x: Chains, t: Times) -> Chains:
    """The velocity at x whose end is `clean`; t below 1."""
    return (clean - x) / (1 - t[:, None, None])


def to_clean(velocity: Chains, x: Chains, t: Times) -> Chains:
    """Where a straight line from x with that velocity ends."""
    return x + (1 - t[:, None, None]) * velocity


def weight(t: Times) -> Times:
    """Of squared errors of velocities in the training loss: 1 but for the last 0.3 % of times, where it falls to 0."""
    return jnp.square(1 - t) / (jnp.square(1 - t) + 1e-5)


def mean_square(error: Chains, mask: Bool[Array, "batch n"]) -> Float[Array, " batch"]:
    """Per coordinate of the residues of each chain."""
    squares = jnp.where(mask[..., None], jnp.square(error), 0).sum((1, 2))
    return squares / (3 * jnp.maximum(mask.sum(1), 1))


def turned_mean(clean: Chains, x: Chains, t: Times, prior: Listed | None = None) -> Chains:
    """E[R x_1 | x_t]: the mean of a known chain x_1 over the ways it may be turned, given what is seen of it at x.

    Zero at t = 0, x's own orientation near t = 1. What a model is to be taught in the place of the turned chain: the
    same on average, with less variance (Rao and Blackwell). Padding of `clean` is 0; all rotations without `prior`.
    """
    return rotation_posterior.turned_mean(clean, x, t / jnp.square(1 - t), prior)


def lost_to_rotation(
    clean: Chains, x: Chains, t: Times, mask: Bool[Array, "batch n"], prior: Listed | None = None
) -> Float[Array, " batch"]:
    """Mean square per coordinate of velocities that is left to a model that knows the chain, but not how it is turned.

    No model can be better; not knowing the chain either, it will be worse.
    """
    lost = rotation_posterior.lost_to_rotation(clean, x, t / jnp.square(1 - t), prior)
    return lost / jnp.square(1 - t) / (3 * jnp.maximum(mask.sum(1), 1))
