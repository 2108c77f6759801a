"""How much gradients of training losses vary from draw to draw: what a loss of less variance is worth."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from equiscale.tasks.task import Params

DRAWS = 16


class Spread(NamedTuple):
    """Of gradients over draws: the trace of their covariance, and the square of their mean, without bias."""

    variance: Float[Array, ""]
    signal: Float[Array, ""]


def gradient_spread(
    loss: Callable[[Params, PRNGKeyArray], Float[Array, ""]], params: Params, key: PRNGKeyArray, draws: int = DRAWS
) -> Spread:
    """Of the gradient of `loss(params, key)` over keys; memory is that of two gradients, whatever the draws."""
    zeros = jax.tree.map(jnp.zeros_like, params)

    def square(tree: Params) -> Float[Array, ""]:
        return sum(jnp.vdot(a, a) for a in jax.tree.leaves(tree))

    def add(sums, key):
        total, squares = sums
        found = jax.grad(loss)(params, key)
        return (jax.tree.map(jnp.add, total, found), squares + square(found)), None

    (total, squares), _ = jax.lax.scan(add, (zeros, jnp.zeros(())), jax.random.split(key, draws))
    of_mean = square(total) / draws**2
    variance = (squares / draws - of_mean) * draws / (draws - 1)
    return Spread(variance, of_mean - variance / draws)


def spread_record(batches: Sequence[Mapping[str, Spread]]) -> dict[str, Any]:
    """By loss, `variance` and `signal` averaged over batches, and `ratio`, variance over that of the first loss."""
    names = list(batches[0])
    found: dict[str, Any] = {}
    for name in names:
        variance, signal = (sum(float(b[name][i]) for b in batches) / len(batches) for i in (0, 1))
        found[name] = {"variance": variance, "signal": signal}
        found[name]["ratio"] = variance / found[names[0]]["variance"]
    return found
