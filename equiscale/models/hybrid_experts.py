"""A mixture of two kinds of experts (Equivariant Spherical Transformer, Eqs. 14 and 43 to 46).

Steerable experts are gated networks of coefficients, exactly equivariant and of limited expressiveness. Spherical ones
attend over points of the sphere and apply a network at each: as expressive as it gets, equivariant up to quadrature.
A softmax over all experts, of the item's scalars, says how much each counts.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equiscale.models.spherical_attention import Norm, PointNorm, SphericalAttention
from equiscale.models.spherical_layers import Coefficients, DegreeLinear, gate
from equiscale.sphere.transform import Sphere, from_points, to_points


class HybridExperts(nn.Module):
    """`[*items, K, C]` to the same.

    All experts of a kind are one wide network whose hidden channels are weighed by their expert's share: a sum over
    experts is then one product of matrices. With `top_k` the rest of the shares are zero, and cost as much.

    Attributes:
      sphere: where functions are sampled.
      n_steerable, n_spherical: how many experts of each kind; at least one in all.
      n_shared: of the steerable ones so many always count fully, and take no part in the softmax.
      steerable_width, spherical_width: hidden channels of one expert.
      top_k: experts that count for an item; None: all.
      balance: weight of the loss sum_e E f_e P_e left in the collection "losses": f_e is the part of items in which e
        has the largest share, P_e its mean share, over all items and padding.
      bypass: scalars do not come from points: a network of their own makes them, exactly invariant, as in the released
        code.
      attend: whether spherical experts attend over the points before the network at each.
      norm, weighted, spread, items_at_once: as for `SphericalAttention`.
    """

    sphere: Sphere
    n_steerable: int = 1
    n_spherical: int = 1
    n_shared: int = 0
    steerable_width: int = 32
    spherical_width: int = 64
    top_k: int | None = None
    balance: float = 0.0
    bypass: bool = True
    attend: bool = True
    norm: Norm = "coefficients"
    weighted: bool = True
    spread: float | None = 2.0
    items_at_once: int | None = None

    @nn.compact
    def __call__(self, x: Coefficients, species: Any = None) -> Coefficients:
        shares = self.shares(x[..., 0, :])
        n_first = self.n_shared + self.n_steerable
        out = 0
        if n_first:
            out += self._steerable(x, shares[..., :n_first])
        if self.n_spherical:
            spherical = self._spherical(x, shares[..., n_first:])
            out += spherical.at[..., 0, :].set(0) if self.bypass else spherical
        if self.bypass and self.n_spherical:
            scalars = nn.silu(nn.Dense(x.shape[-1], name="bypass")(nn.LayerNorm(name="bypass_norm")(x[..., 0, :])))
            out = out.at[..., 0, :].add(scalars)
        return out

    @nn.compact
    def shares(self, scalars: Float[Array, "*items c"]) -> Float[Array, "*items experts"]:
        n = self.n_steerable + self.n_spherical
        if n < 1 or not 1 <= (self.top_k or n) <= n:
            raise ValueError(
                f"n_steerable={self.n_steerable}, n_spherical={self.n_spherical}, top_k={self.top_k}: give at least "
                "one expert, and a top_k of at most their number"
            )
        h = nn.silu(nn.Dense(scalars.shape[-1], name="gate_in")(nn.LayerNorm(name="gate_norm")(scalars)))
        shares = jax.nn.softmax(nn.Dense(n, name="gate_out")(h), axis=-1)
        if self.balance:
            over = tuple(range(shares.ndim - 1))
            chosen = jax.nn.one_hot(jnp.argmax(shares, -1), n).mean(over)
            self.sow("losses", "balance", self.balance * n * jnp.sum(chosen * shares.mean(over)))
        if self.top_k is not None:
            least = jax.lax.top_k(shares, self.top_k)[0][..., -1:]
            shares = jnp.where(shares >= least, shares, 0)
        return jnp.concatenate([jnp.ones((*shares.shape[:-1], self.n_shared), shares.dtype), shares], axis=-1)

    def _steerable(self, x: Coefficients, shares: Float[Array, "*items experts"]) -> Coefficients:
        width = shares.shape[-1] * self.steerable_width
        h = DegreeLinear(width, name="steerable_in")(x)
        h = gate(h, nn.Dense(width, name="steerable_gate")(x[..., 0, :]))
        h = h * jnp.repeat(shares, self.steerable_width, axis=-1)[..., None, :]
        return DegreeLinear(x.shape[-1], bias=False, name="steerable_out")(h)

    def _spherical(self, x: Coefficients, shares: Float[Array, "*items experts"]) -> Coefficients:
        if self.attend:
            settings = {"norm": self.norm, "weighted": self.weighted, "spread": self.spread}
            attention = SphericalAttention(self.sphere, **settings, items_at_once=self.items_at_once, name="attention")
            f = attention(x)
        else:
            f = to_points(self.sphere, x)
        f = PointNorm(self.sphere, self.norm, name="spherical_norm")(f)
        h = nn.silu(nn.Dense(shares.shape[-1] * self.spherical_width, name="spherical_in")(f))
        h = h * jnp.repeat(shares, self.spherical_width, axis=-1)[..., None, :]
        return from_points(self.sphere, nn.Dense(x.shape[-1], use_bias=False, name="spherical_out")(h))
