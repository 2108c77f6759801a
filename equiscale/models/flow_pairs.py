"""Pairs of residues in Proteina's transformer: binned distances and separations, biases of attention, updates.

Of a structure a pair knows distances alone, in bins, so pairs are invariant until an update lets them see the tokens.
A one-hot vector times a matrix is a row of it: nothing is as wide as the bins.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from equiscale.models.flow_layers import Linear, Modulation, Tokens, kernel_init, norm

Pairs = Float[Array, "batch rows tokens p"]
SHORTEST, LONGEST = 0.1, 3.0  # nm: distances below and above are not told apart
TRIANGLE_WIDTH = 196  # at most, of triangle updates


class Bins(NamedTuple):
    """How many bins separations along the chain have, distances of the guess, and of the noisy structure."""

    separations: int = 127
    guess: int = 128
    positions: int = 64

    def limits(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values between neighbouring bins: half integers of residues, and nm twice."""
        far = (self.separations - 2) / 2
        of_distances = (np.linspace(SHORTEST, LONGEST, n - 1) for n in (self.guess, self.positions))
        return (np.linspace(-far, far, self.separations - 1), *of_distances)


def distances(x: Float[Array, "batch rows 3"], y: Float[Array, "batch n 3"]) -> Float[Array, "batch rows n"]:
    return jnp.sqrt(jnp.sum(jnp.square(x[:, :, None] - y[:, None]), axis=-1))


def bin_of(values: Array, limits: np.ndarray) -> Int[Array, "..."]:
    """How many of the ascending limits are below each value."""
    return jnp.searchsorted(jnp.asarray(limits, jnp.float32), values.astype(jnp.float32), side="left")


class PairFeatures(nn.Module):
    """Of pairs of some rows with all residues `[batch, rows, n, width]`, normed and conditioned on the flow time.

    `apart` and `guessed_apart` are distances in nm, `separation` the difference of residue numbers; chains for which
    `guessed` is 0 have no guess, which is not the same as any distance.
    """

    width: int
    bins: Bins = Bins()
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        separation: Int[Array, "batch rows n"],
        guessed_apart: Float[Array, "batch rows n"],
        apart: Float[Array, "batch rows n"],
        guessed: Float[Array, " batch"],
        condition: Float[Array, "batch c"],
    ) -> Pairs:
        # One matrix, as for one-hot inputs side by side, so that it starts as theirs.
        table = self.param("table", kernel_init, (sum(self.bins), self.width))
        rows = [bin_of(v, b) for v, b in zip((separation, guessed_apart, apart), self.bins.limits(), strict=True)]
        first = np.cumsum((0, *self.bins))
        of_separation, of_guess, of_distance = (table[start + row] for start, row in zip(first, rows, strict=False))
        x = of_separation + of_distance + guessed[:, None, None, None].astype(table.dtype) * of_guess
        gain, offset = Modulation(self.width, self.dtype, name="modulation")(condition)
        return norm(norm(x, "norm", self.dtype), dtype=self.dtype) * gain[:, None, None] + offset[:, None, None]


class PairBias(nn.Module):
    """Biases of the attention of several blocks `[batch, blocks, h, rows, n]`: each a norm of pairs and a linear map.

    The norms differ in their gains and offsets alone, which go into the maps: one product for all blocks.
    """

    n_blocks: int
    n_heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, pairs: Pairs) -> Float[Array, "batch blocks h rows n"]:
        width = pairs.shape[-1]
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))
        kernel = self.param("kernel", init, (self.n_blocks, width, self.n_heads))
        scale = self.param("scale", nn.initializers.ones, (self.n_blocks, width))
        offset = self.param("offset", nn.initializers.zeros, (self.n_blocks, width))
        x = norm(pairs, dtype=self.dtype)
        bias = jnp.einsum("bmnp,lp,lph->blhmn", x, scale.astype(x.dtype), kernel.astype(x.dtype))
        return bias + jnp.einsum("lp,lph->lh", offset, kernel).astype(x.dtype)[:, :, None, None]


class PairUpdate(nn.Module):
    """Pairs that see the tokens: an outer sum, `triangles` of pairs if wanted, and a two-layer network, each added."""

    triangles: bool
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, pairs: Pairs, tokens: Tokens, mask: Bool[Array, "batch tokens"]) -> Pairs:
        width, both = pairs.shape[-1], mask[:, :, None] & mask[:, None]
        kinds = {"dtype": self.dtype}
        sums = Linear(2 * width, bias=False, **kinds, name="sum")(norm(tokens, "token_norm", self.dtype))
        of_second, of_first = jnp.split(sums, 2, axis=-1)
        pairs = jnp.where(both[..., None], pairs + of_second[:, None] + of_first[:, :, None], 0)
        for name in ("outgoing", "incoming") if self.triangles else ():
            added = Triangle(name == "outgoing", self.dtype, name=name)(pairs, both)
            pairs = jnp.where(both[..., None], pairs + added, 0)
        he = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")
        h = Linear(2 * width, kernel=he, offset=0.0, **kinds, name="in")(norm(pairs, "pair_norm", self.dtype))
        h = Linear(width, kernel=nn.initializers.zeros, offset=0.0, **kinds, name="out")(nn.relu(h))
        return jnp.where(both[..., None], pairs + h, 0)


class Triangle(nn.Module):
    """Triangle multiplication: pair (i, j) sees the products of (i, k) and (j, k), or of (k, i) and (k, j), over k."""

    outgoing: bool
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, pairs: Pairs, both: Bool[Array, "batch tokens tokens"]) -> Pairs:
        width = pairs.shape[-1]
        hidden = min(width, TRIANGLE_WIDTH)
        lecun = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        zeros = nn.initializers.zeros
        x = norm(pairs, "norm", self.dtype)

        def gated(y, features, name, kernel=lecun):
            gate = nn.sigmoid(Linear(features, kernel=zeros, offset=1.0, dtype=self.dtype, name=f"{name}_gate")(x))
            return Linear(features, kernel=kernel, offset=0.0, dtype=self.dtype, name=name)(y) * gate

        a, b = (jnp.where(both[..., None], gated(x, hidden, name), 0) for name in ("first", "second"))
        product = jnp.einsum("bikc,bjkc->bijc" if self.outgoing else "bkic,bkjc->bijc", a, b)
        return gated(norm(product, "product_norm", self.dtype), width, "out", kernel=zeros)
