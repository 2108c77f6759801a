"""Proteina's transformer for flow matching of C-alpha chains (arXiv 2503.00710).

Coordinates enter through two linear maps (of the noisy structure and of a guess) and leave through one; all else is
made of distances, of places along the chain and of the flow time. So those three matrices are where rotations can be
told apart. All lengths are in nm.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from equiscale.actions import trivial, vectors
from equiscale.models.flow_layers import Block, Conditions, Linear, SwiGLU, Tokens, norm
from equiscale.models.flow_pairs import Bins, PairBias, PairFeatures, PairUpdate, distances

# Fields of `FlowTransformer`. "60M" and "400M" are the published models of 64,995,584 and 397,545,472 parameters.
FOLDS = (5, 43, 1336)  # classes, architectures and topologies of CATH
PRESETS: dict[str, dict[str, Any]] = {
    "micro": {
        **{"width": 64, "n_blocks": 2, "n_heads": 2, "pair_width": 16, "condition": 32, "time_features": 32},
        **{"index_features": 16, "bins": Bins(31, 16, 16), "n_registers": 2},
    },
    "tiny": {
        **{"width": 128, "n_blocks": 3, "n_heads": 4, "pair_width": 32, "condition": 64, "time_features": 64},
        **{"index_features": 32, "bins": Bins(63, 32, 32), "n_registers": 4},
    },
    "small": {
        **{"width": 256, "n_blocks": 4, "n_heads": 4, "pair_width": 64, "condition": 128, "time_features": 128},
        **{"index_features": 64, "bins": Bins(127, 64, 64)},
    },
    "60M": {"folds": FOLDS},
    "60M_triangles": {"update_every": 2, "triangles": True, "folds": FOLDS},
    "200M": {"width": 768, "n_blocks": 15, "n_heads": 12, "pair_width": 512, "folds": FOLDS},
    "400M": {
        **{"width": 1024, "n_blocks": 18, "n_heads": 16, "pair_width": 512, "folds": FOLDS},
        **{"update_every": 5, "triangles": True},
    },
}


class Chain(NamedTuple):
    """What the network reads of a batch of chains; padding has index 0 and changes nothing."""

    positions: Float[Array, "batch n 3"]  # noisy ones in nm
    index: Int[Array, "batch n"]  # residue numbers from 1 on; missing residues count
    breaks: Bool[Array, "batch n"]  # whether the next residue is not bonded to this one
    time: Float[Array, " batch"]  # of the flow: 0 is noise, 1 is data
    guess: Float[Array, "batch n 3"]  # of the clean positions, for self-conditioning
    guessed: Float[Array, " batch"]  # 1 where there is a guess, 0 where there is none

    @property
    def mask(self) -> Bool[Array, "batch n"]:
        return self.index > 0


# How rotations act on it, for `equiscale.Symmetry`. A guess is turned along: it is part of the input.
TURNED = Chain(positions=vectors, index=trivial, breaks=trivial, time=trivial, guess=vectors, guessed=trivial)


class Flow(NamedTuple):
    """Velocities in nm, 0 on padding, and logits of the distance of each pair where pairs are updated, else None."""

    velocity: Float[Array, "batch n 3"]
    distogram: Float[Array, "batch n n bins"] | None


class FlowTransformer(nn.Module):
    """`Chain` to `Flow`.

    Attributes:
      width: d, of the tokens, 64 for each of `n_heads` in the published models.
      n_blocks: of attention and network.
      pair_width: of the features of pairs.
      condition: width of what the flow time (and the fold) is made into.
      update_every: pairs are updated after every so many blocks, beginning with the first, none after the last; 0:
        never, and pairs stay invariant.
      triangles: whether updates multiply pairs along triangles.
      time_features, index_features: widths of the embeddings of time and place.
      bins: of separations and distances.
      n_registers: tokens that belong to no residue.
      folds: classes of each level of a fold's name; (): no fold is asked for. Row 0 of each table is "not known".
      n_distogram: classes of distances that updated pairs predict.
      rows_at_once: so many rows of the pairs' features are in memory at a time; None: all. Not with updates.
      remat: recompute blocks in the backward pass.
      dtype: of the computation; velocities are float32 or better.
    """

    width: int = 512
    n_blocks: int = 10
    n_heads: int = 8
    pair_width: int = 256
    condition: int = 512
    update_every: int = 0
    triangles: bool = False
    time_features: int = 256
    index_features: int = 128
    bins: Bins = Bins()
    n_registers: int = 10
    folds: tuple[int, ...] = ()
    n_distogram: int = 64
    rows_at_once: int | None = None
    remat: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, chain: Chain, folds: Int[Array, "batch levels"] | None = None) -> Flow:
        self._check(chain, folds)
        n = chain.index.shape[1]
        time = time_embedding(chain.time, self.time_features)
        conditions = self._conditions(time, folds)
        x = self._tokens(chain)
        registers = self.param("registers", nn.initializers.normal(0.05), (self.n_registers, self.width))
        x = jnp.concatenate([jnp.broadcast_to(registers.astype(x.dtype), (len(x), *registers.shape)), x], axis=1)
        seen = jnp.pad(chain.mask, ((0, 0), (self.n_registers, 0)), constant_values=True)
        before = ((self.n_registers, 0), (self.n_registers, 0))  # nothing is known of pairs with registers

        rows = self._rows(chain, norm(self._linear(self.condition, "pair_time")(time), "pair_time_norm", self.dtype))
        features = PairFeatures(self.pair_width, self.bins, self.dtype, name="pairs")
        pairs = jnp.pad(features(*rows(0, n)), ((0, 0), *before, (0, 0))) if self.update_every else None
        block = nn.remat(Block) if self.remat else Block
        for start, end in self._segments():
            bias_of = PairBias(end - start, self.n_heads, self.dtype, name=f"bias_{start}")
            if start:
                pairs = PairUpdate(self.triangles, self.dtype, name=f"update_{start - 1}")(pairs, x, seen)
            if self.update_every:
                biases = bias_of(pairs)
            else:
                at_once = self.rows_at_once or n
                parts = [_bias_of_rows(self, features, bias_of, *rows(i, i + at_once)) for i in range(0, n, at_once)]
                unknown = bias_of(jnp.zeros((1, 1, 1, self.pair_width), parts[0].dtype))
                biases = unknown + jnp.pad(jnp.concatenate(parts, axis=3) - unknown, ((0, 0), (0, 0), (0, 0), *before))
            for i in range(start, end):
                one = block(self.n_heads, self.n_registers, self.dtype, name=f"block_{i}")
                x = one(x, conditions, biases[:, i - start], seen)
        x = x[:, self.n_registers :]
        x = norm(x.astype(jnp.promote_types(x.dtype, jnp.float32)), "head_norm")
        self.sow("intermediates", "latent", x)
        velocity = jnp.where(chain.mask[..., None], Linear(3, bias=False, name="head")(x), 0)
        if not self.update_every:
            return Flow(velocity, None)
        pairs = norm(pairs[:, self.n_registers :, self.n_registers :], "distogram_norm", self.dtype)
        return Flow(velocity, Linear(self.n_distogram, dtype=self.dtype, name="distogram")(pairs))

    def _linear(self, features: int, name: str) -> Linear:
        return Linear(features, bias=False, dtype=self.dtype, name=name)

    def _segments(self) -> list[tuple[int, int]]:
        """First and last plus one of the blocks between updates of the pairs."""
        every = self.update_every
        after = [i + 1 for i in range(0, self.n_blocks - 1, every)] if every else []
        return list(itertools.pairwise((0, *after, self.n_blocks)))

    def _conditions(self, time: Array, folds: Array | None) -> Conditions:
        parts = [time]
        for level, n_classes in enumerate(self.folds):
            table = nn.Embed(n_classes + 1, self.time_features, name=f"fold_{level}")
            parts.append(table(jnp.zeros(len(time), int) if folds is None else folds[:, level]))
        c = self._linear(self.condition, "condition")(jnp.concatenate(parts, axis=-1))
        for i in range(2):
            c = SwiGLU(2 * self.condition, self.dtype, name=f"condition_{i}")(c)
        return jnp.stack([jnp.zeros_like(c), c], axis=1)

    def _tokens(self, chain: Chain) -> Tokens:
        place = index_embedding(chain.index, self.index_features)
        guess = chain.guess * chain.guessed[:, None, None]
        along = jnp.concatenate([place, chain.breaks[..., None].astype(place.dtype), guess], axis=-1)
        x = self._linear(self.width, "positions")(chain.positions) + self._linear(self.width, "sequence")(along)
        return jnp.where(chain.mask[..., None], x, 0)

    def _rows(self, chain: Chain, condition: Array) -> Callable[[int, int], tuple]:
        """What `PairFeatures` reads of the pairs of some rows."""

        def rows(start: int, end: int) -> tuple:
            some = slice(start, end)
            separation = chain.index[:, some, None] - chain.index[:, None]
            apart = (distances(x[:, some], x) for x in (chain.guess, chain.positions))
            return separation, *apart, chain.guessed, condition

        return rows

    def _check(self, chain: Chain, folds: Array | None) -> None:
        batch = chain.index.shape
        if len(batch) != 2 or chain.positions.shape != (*batch, 3) or chain.guess.shape != (*batch, 3):
            raise ValueError(
                f"expected positions and guess [batch, n, 3] and index [batch, n], got {list(chain.positions.shape)}, "
                f"{list(chain.guess.shape)} and {list(batch)}"
            )
        if self.width % self.n_heads:
            raise ValueError(f"n_heads={self.n_heads} do not divide the width {self.width}")
        if self.triangles and not self.update_every:
            raise ValueError("triangles=True without updates of pairs: set update_every")
        if self.update_every and self.rows_at_once:
            raise ValueError(f"rows_at_once={self.rows_at_once} with updates of pairs, which need all rows at once")
        if folds is not None and folds.shape[1:] != (len(self.folds),):
            raise ValueError(
                f"folds {list(folds.shape)}: give [batch, {len(self.folds)}], 0 where a level is not known"
            )


def _bias_of_rows(model: FlowTransformer, features: PairFeatures, bias_of: PairBias, *rows: Array) -> Array:
    """Biases of some rows; where not all are done at once, their features are computed again in the backward pass."""

    def run(_, *rows):
        return bias_of(features(*rows))

    return (nn.remat(run) if model.rows_at_once else run)(model, *rows)


def time_embedding(time: Float[Array, " batch"], width: int) -> Float[Array, "batch width"]:
    """Sines, then cosines, of 2000 t at frequencies from 1 down to 1 / 2000."""
    half = width // 2
    angle = 2000.0 * time[:, None] * jnp.exp(-jnp.arange(half) * np.log(2000.0) / (half - 1))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def index_embedding(index: Int[Array, "batch n"], width: int) -> Float[Array, "batch n width"]:
    """Sines, then cosines, of the residue number times pi over 2056^(2 k / width)."""
    angle = index[..., None] * (np.pi / 2056.0 ** (2 * jnp.arange(width // 2) / width))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
