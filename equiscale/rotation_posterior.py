"""What is known of a turned structure from noisy positions, and what rotation hides of it for good.

A structure x, turned by a rotation R of known distribution, is seen as y = t R x + Gaussian noise of deviation s. Then

    p(R | y) ~ p(R) exp(tr F^T R),   F = (t / s^2) sum_i y_i x_i^T,

and E[R | y] x is the best guess of R x: what is left of the squared error is the part that no model can remove. For
uniform rotations p(R | y) is the matrix-Fisher distribution; of finitely many it is a list of probabilities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale.matrix_fisher import mean_rotation, proper_svd, short_values
from equiscale.measures import Measure

Positions = Float[Array, "*any n 3"]


class Listed(NamedTuple):
    """Finitely many rotations `[n, 3, 3]`, also improper ones, and how probable each is `[n]`, of sum 1."""

    rotations: np.ndarray
    weights: np.ndarray

    def posterior(self, f: Float[Array, "*any 3 3"]) -> Float[Array, "*any n"]:
        """p(R) exp(tr F^T R), normalised."""
        rotations, weights = (jnp.asarray(a, f.dtype) for a in self)
        logits = jnp.einsum("...ij,nij->...n", f, rotations, precision="highest")
        return jax.nn.softmax(logits + jnp.log(weights), axis=-1)


def prior_of(measure: Measure) -> Listed | None:
    """The rotations that examples are turned by where a measure averages over them: those that it lists, or the
    elements of its finite group; None for all rotations, uniformly.
    """
    if measure.group.elements is None:
        return None
    elements, weights = np.asarray(measure.group.elements(), float), None
    if measure.deterministic:
        elements, weights = np.asarray(measure.draw(jax.random.key(0))[0], float), measure.weights
    return Listed(elements, np.full(len(elements), 1 / len(elements)) if weights is None else weights)


def turned_mean(clean: Positions, seen: Positions, gain: Array | float, prior: Listed | None = None) -> Positions:
    """E[R x | y] of a known structure x `clean`, for y `seen` and t / s^2 the `gain`; padding is 0 in `clean`.

    Gradients through it fail, for uniform rotations, where the evidence has equal singular values.
    """
    f = _evidence(clean, seen, gain)
    mean = mean_rotation(f) if prior is None else _mean(prior, prior.posterior(f))
    return jnp.einsum("...ij,...nj->...ni", mean, clean, precision="highest")


def lost_to_rotation(
    clean: Positions, seen: Positions, gain: Array | float, prior: Listed | None = None
) -> Float[Array, "*any"]:
    """E |R x - E[R x | y]|^2 under p(R | y): the squared error that no model of R x can remove.

    Of uniform rotations little noise is lost along each of the directions in which a turn moves the structure:
    r s^2 / t^2, with r = 3 of them, 2 for a line; of finitely many, next to nothing. A model that does not know the
    structure either will be worse.
    """
    f = _evidence(clean, seen, gain)
    if prior is None:  # |x|^2 - |E[R] x|^2 by the singular values of F, without the difference of large numbers
        _, s, vt = proper_svd(f)
        short = short_values(s)
        along = jnp.sum(jnp.square(jnp.einsum("...ij,...nj->...ni", vt, clean, precision="highest")), axis=-2)
        return jnp.sum(short * (2 - short) * along, axis=-1)
    p = prior.posterior(f)
    away = jnp.asarray(prior.rotations, f.dtype) - _mean(prior, p)[..., None, :, :]
    second = jnp.einsum("...ni,...nj->...ij", clean, clean, precision="highest")
    return jnp.einsum("...r,...rij,...jk,...rik->...", p, away, second, away, precision="highest")


def _evidence(clean: Positions, seen: Positions, gain: Array | float) -> Float[Array, "*any 3 3"]:
    return jnp.asarray(gain)[..., None, None] * jnp.einsum("...ni,...nj->...ij", seen, clean, precision="highest")


def _mean(prior: Listed, probabilities: Float[Array, "*any n"]) -> Float[Array, "*any 3 3"]:
    rotations = jnp.asarray(prior.rotations, probabilities.dtype)
    return jnp.einsum("...n,nij->...ij", probabilities, rotations, precision="highest")
