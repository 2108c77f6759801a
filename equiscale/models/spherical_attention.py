"""Attention of one function on the sphere over its own points (Equivariant Spherical Transformer, arXiv 2505.23086).

Functions are sampled at points of a quadrature rule; queries and keys there say which other points a point looks at.
With q, k, v functions on the sphere, and weights w of the rule,

    out(p) = sum_p' w(p') exp(a(p, p')) v(p') / sum_p' w(p') exp(a(p, p')),   a(p, p') = s q(p) . k(p') + r p . p'

is a quadrature of Eq. 32 of the paper, whose integrals turn with the functions (Theorem 2). The error is that of the
quadrature: it falls with the rule's degree and grows with the bandwidth of exp(a), so with the spread of a.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from equiscale.models.spherical_layers import Coefficients
from equiscale.sphere.transform import Sphere, to_points

Points = Float[Array, "*items s c"]
Norm = Literal["coefficients", "points", "none"]


class SphericalAttention(nn.Module):
    """Queries from one function `[*items, K, C]`, keys and values from another or the same; at points `[*items, S, C]`.

    Attributes:
      sphere: where functions are sampled.
      norm: "points" is a layer norm over channels at every point, as published: it has no limited bandwidth, and its
        quadrature converges slowly. "coefficients" takes off the mean over channels, which is linear, and divides by
        the root mean square over channels and the whole sphere. Queries, keys and values are then linear in
        coefficients, and computed there: the same numbers with fewer operations. "none" leaves features as they are.
      weighted: whether the softmax weighs points by the rule; needed by rules of unequal weights.
      spread: the most that s q(p) . k(p') may spread over p' (see `logit_spread`), approached by a tanh; r is learned
        and no larger. None leaves the first free and r at s, as published: training may sharpen attention until its
        quadrature fails.
      items_at_once: so many items hold their S x S logits in memory at a time; None takes all. The backward pass
        computes them again.
    """

    sphere: Sphere
    norm: Norm = "coefficients"
    weighted: bool = True
    spread: float | None = 2.0
    items_at_once: int | None = None

    @nn.compact
    def __call__(self, of_queries: Coefficients, of_values: Coefficients | None = None) -> Points:
        channels = of_queries.shape[-1]
        x = self._normed(of_queries, "norm")
        y = x if of_values is None else self._normed(of_values, "value_norm")
        q, k, v = (
            nn.Dense(channels, use_bias=False, name=name)(a) for name, a in (("query", x), ("key", y), ("value", y))
        )
        scale = (channels + 3) ** -0.5  # p is like three more channels
        relative = jnp.asarray(scale, q.dtype)
        if self.spread is not None:
            learned = self.param("relative", nn.initializers.constant(scale), ()).astype(q.dtype)
            relative = _capped(learned, self.spread)
        bias = relative * jnp.asarray(self.sphere.points @ self.sphere.points.T, q.dtype)
        if self.weighted:
            bias += jnp.asarray(self.sphere.log_weights, q.dtype)
        attend = _attend if self.norm == "points" else _attend_in_coefficients
        out, spread = _in_parts(
            lambda q, k, v: attend(q, k, v, bias, self.sphere, self.spread), (scale * q, k, v), self.items_at_once
        )
        self.sow("intermediates", "logit_spread", spread)
        return out

    def _normed(self, x: Coefficients, name: str) -> Array:
        if self.norm == "points":
            return nn.LayerNorm(name=name)(to_points(self.sphere, x))
        return spherical_norm(x) if self.norm == "coefficients" else x


class PointNorm(nn.Module):
    """The norm of functions at points, `[*items, S, C]`, before a network there; see `SphericalAttention.norm`."""

    sphere: Sphere
    norm: Norm

    @nn.compact
    def __call__(self, x: Points) -> Points:
        if self.norm == "points":
            return nn.LayerNorm()(x)
        return spherical_norm_at(x, self.sphere) if self.norm == "coefficients" else x


def mean_square(x: Coefficients) -> Float[Array, "*items 1 1"]:
    """Of a function over channels and the sphere, by Parseval: sum over rows / 4 pi; no less than 1e-6."""
    return jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True) / (4 * jnp.pi * x.shape[-1]) + 1e-6


def spherical_norm(x: Coefficients) -> Coefficients:
    """Channels less their mean at every point of the sphere, over the root mean square on channels and the sphere."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * lax.rsqrt(mean_square(centred))


def spherical_norm_at(x: Points, sphere: Sphere) -> Points:
    """`spherical_norm` of a function at points, its mean square by quadrature."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * lax.rsqrt(_mean_square_at(centred, sphere))


def _mean_square_at(x: Points, sphere: Sphere) -> Float[Array, "*items 1 1"]:
    share = jnp.asarray(sphere.weights / sphere.weights.sum(), x.dtype)[:, None]
    return jnp.mean(jnp.sum(share * jnp.square(x), axis=-2, keepdims=True), axis=-1, keepdims=True) + 1e-6


def logit_spread(q: Points, k: Points, sphere: Sphere) -> Float[Array, " *items"]:
    """Standard deviation of q(p) . k(p') over p', root mean square over p: how sharp attention is. No S x S array."""
    share = jnp.asarray(sphere.weights / sphere.weights.sum(), q.dtype)[:, None]
    k = k - jnp.sum(share * k, axis=-2, keepdims=True)
    of_q, of_k = (jnp.einsum("...sc,...sd->...cd", share * a, a) for a in (q, k))
    return jnp.sqrt(jnp.sum(of_q * of_k, axis=(-2, -1)) + 1e-12)


def _attend(
    q: Points, k: Points, v: Points, bias: Float[Array, "s s"], sphere: Sphere, cap: float | None
) -> tuple[Points, Float[Array, ""]]:
    """One item at points: its attention, and its logits' spread before any cap."""
    spread = logit_spread(q, k, sphere)
    logits = q @ k.T * _shrunk(spread, cap)
    return jax.nn.softmax(logits + bias, axis=-1) @ v, spread


def _attend_in_coefficients(
    q: Coefficients, k: Coefficients, v: Coefficients, bias: Float[Array, "s s"], sphere: Sphere, cap: float | None
) -> tuple[Points, Float[Array, ""]]:
    """`_attend` of functions that stay in their K coefficients: S^2 K operations twice, not S^2 C.

    By Parseval the spread is that of the products of coefficients, but for those with a constant k.
    """
    at = jnp.asarray(sphere.to_points, q.dtype)
    products = q @ k.T
    spread = jnp.sqrt(jnp.sum(jnp.square(products[:, 1:])) + 1e-12) / (4 * jnp.pi)
    logits = jnp.matmul(at @ (products * _shrunk(spread, cap)), at.T)
    return (jax.nn.softmax(logits + bias, axis=-1) @ at) @ v, spread


def _capped(x: Array, cap: float) -> Array:
    return cap * jnp.tanh(x / cap)


def _shrunk(spread: Float[Array, ""], cap: float | None) -> Float[Array, ""] | float:
    """What logits of such a spread are multiplied by to spread less than the cap."""
    return 1.0 if cap is None else _capped(spread, cap) / spread


def _in_parts(attend: Callable[[Array, Array, Array], Any], items: tuple[Array, ...], at_once: int | None) -> Any:
    """`attend` of each of the items `[*items, rows, C]`, `at_once` of them at a time."""
    lead = items[0].shape[:-2]
    flat = tuple(a.reshape(-1, *a.shape[-2:]) for a in items)
    if at_once is None or at_once >= len(flat[0]):
        out = jax.vmap(attend)(*flat)
    else:
        out = lax.map(jax.checkpoint(lambda item: attend(*item)), flat, batch_size=at_once)
    return jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), out)
