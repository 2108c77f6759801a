"""Layers of the EScAIP graph transformer: attention among the neighbours of each atom.

Two rewrites of the published layers leave their results as they are. A dense layer on [edge, sender, receiver] side by
side is the sum of three; those of sender and receiver act on atoms, of which there are k times fewer than edges
(`EdgeDense`). And where only the energy is wanted, no edge features but those of the first block reach it, so none are
computed.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from equiscale.models.graph_features import Features, of_neighbours


class Sized(nn.Module):
    """The fields that all layers share.

    Attributes:
      hidden: width H of atom and edge features, divisible by `n_heads`.
      n_heads: of the attention.
      radial_features, order_features, species_features: widths in which every block embeds the Gaussians of the
        distance, the bond-orientational order and the species.
      ffn_multiplier, readout_multiplier, output_multiplier: hidden over outer width of the two-layer networks in
        blocks, readouts and heads.
      n_species: rows of the species' tables: one more than the highest atomic number.
      dropout: rate after activations and two-layer networks.
      attention_dropout: rate on the attention's weights.
      dtype: of the computation, but for geometry, heads, softmax and sums of norms, which are in float32 or better; by
        default that of the input and the parameters together.
      param_dtype: of the parameters.
    """

    hidden: int = 128
    n_heads: int = 8
    radial_features: int = 512
    order_features: int = 64
    species_features: int = 128
    ffn_multiplier: int = 2
    readout_multiplier: int = 2
    output_multiplier: int = 2
    n_species: int = 110
    dropout: float = 0.05
    attention_dropout: float = 0.1
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    def shared(self) -> dict:
        """These fields, for a layer inside."""
        return {name: getattr(self, name) for name in Sized.__dataclass_fields__ if name not in ("parent", "name")}


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
    """Xavier's uniform distribution, with PyTorch's meaning of the gain."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


def dense(layer: Sized, features: int, name: str, gain: float = 1.0, bias: bool = True) -> nn.Dense:
    types = {"dtype": layer.dtype, "param_dtype": layer.param_dtype}
    return nn.Dense(features, use_bias=bias, kernel_init=xavier(gain), **types, name=name)


def norm(layer: Sized, x: Array, name: str) -> Array:
    """RMSNorm with PyTorch's epsilon, the machine's of float32 or better."""
    epsilon = float(jnp.finfo(jnp.promote_types(x.dtype, jnp.float32)).eps)
    return nn.RMSNorm(epsilon, dtype=layer.dtype, param_dtype=layer.param_dtype, name=name)(x)


def gelu(x: Array) -> Array:
    """The exact one: x times the normal distribution function. By erf, a third of the time of jax.nn's erfc on CPU."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * jnp.asarray(math.sqrt(0.5), x.dtype)))


def activation(layer: Sized, x: Array, train: bool) -> Array:
    return nn.Dropout(layer.dropout, deterministic=not train)(gelu(x))


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean over the slots that are filled: `[..., k, features]` to `[..., features]`."""
    count = jnp.sum(mask, -1, keepdims=True).astype(x.dtype) + jnp.asarray(1e-5, x.dtype)
    return jnp.sum(jnp.where(mask[..., None], x, 0), -2) / count


class FeedForward(Sized):
    """Two dense layers with a GELU between them, `multiplier` times as wide inside."""

    multiplier: int = 2
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        h = activation(self, dense(self, self.multiplier * self.hidden, "in", self.gain)(x), train)
        return nn.Dropout(self.dropout, deterministic=not train)(dense(self, self.hidden, "out", self.gain)(h))


class EdgeDense(Sized):
    """A dense layer to `hidden` features of each edge from its own, those of the sender and those of the receiver.

    The kernel's rows are in that order. `edge` can be None.
    """

    @nn.compact
    def __call__(self, edge: Array | None, sender: Array, receiver: Array, neighbours: Array) -> Array:
        widths = [0 if edge is None else edge.shape[-1], sender.shape[-1], receiver.shape[-1]]
        kernel = self.param("kernel", xavier(), (sum(widths), self.hidden), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.hidden,), self.param_dtype)
        sender, receiver, kernel, bias = nn.dtypes.promote_dtype(sender, receiver, kernel, bias, dtype=self.dtype)
        of_edge, of_sender, of_receiver = jnp.split(kernel, (widths[0], widths[0] + widths[1]))
        y = of_neighbours(sender @ of_sender, neighbours) + (receiver @ of_receiver + bias)[..., None, :]
        return y if edge is None else y + edge.astype(y.dtype) @ of_edge


class EdgeAttributes(Sized):
    """What a block knows of its edges beside the atoms' features: distance, and order and species at both ends."""

    @nn.compact
    def __call__(self, x: Features, train: bool) -> Array:
        radial = activation(self, dense(self, self.radial_features, "radial")(x.radial), train)
        ends = []
        for end in ("sender", "receiver"):
            order = activation(self, dense(self, self.order_features, f"{end}_order")(x.order), train)
            table = nn.Embed(
                self.n_species,
                self.species_features,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                embedding_init=_small_uniform,
                name=f"{end}_species",
            )
            ends.append(jnp.concatenate([order, table(x.species).astype(order.dtype)], -1))
        return activation(self, EdgeDense(**self.shared(), name="mix")(radial, *ends, x.neighbours), train)


def _small_uniform(key: Array, shape: tuple[int, ...], dtype: Dtype) -> Array:
    return jax.random.uniform(key, shape, dtype, -0.001, 0.001)


class Attention(Sized):
    """Self-attention among the slots of each atom, biased by the cosine of the angle between two edges."""

    @nn.compact
    def __call__(self, messages: Array, x: Features, train: bool) -> Array:
        if self.hidden % self.n_heads:
            raise ValueError(
                f"n_heads {self.n_heads} does not divide hidden {self.hidden}: choose a divisor, for instance "
                f"{math.gcd(self.n_heads, self.hidden)}"
            )
        scale = self.param("angle_scale", nn.initializers.ones, (), self.param_dtype)
        qkv = dense(self, 3 * self.hidden, "qkv")(messages)
        q, k, v = (a.reshape(*a.shape[:-1], self.n_heads, -1) for a in jnp.split(qkv, 3, -1))
        y = nn.dot_product_attention(
            q,
            k,
            v,
            bias=(scale * x.cosines)[..., None, :, :],
            mask=x.slots[..., None, None, :],
            broadcast_dropout=False,
            dropout_rng=self.make_rng("dropout") if train and self.attention_dropout else None,
            dropout_rate=self.attention_dropout,
            deterministic=not train,
            dtype=qkv.dtype,
            force_fp32_for_softmax=qkv.dtype.itemsize < 4,  # and not where it would cut float64 short
        )
        return dense(self, self.hidden, "out")(y.reshape(messages.shape))


class Readout(Sized):
    """Atom and edge features on their way to the heads."""

    with_edges: bool = True

    @nn.compact
    def __call__(self, atoms: Array, edges: Array, train: bool) -> tuple[Array, Array | None]:
        def read(x, name):
            network = FeedForward(**self.shared(), multiplier=self.readout_multiplier, name=name)
            return x + network(norm(self, x, f"{name}_norm"), train)

        return read(atoms, "atoms"), read(edges, "edges") if self.with_edges else None


class InputBlock(Sized):
    """The first atom and edge features."""

    with_edges: bool = True

    @nn.compact
    def __call__(self, x: Features, train: bool) -> tuple[Array, Array]:
        edges = EdgeAttributes(**self.shared(), name="attributes")(x, train)
        network = FeedForward(**self.shared(), multiplier=1, name="edges")
        edges = edges + network(norm(self, edges, "edges_norm"), train)
        atoms = masked_mean(edges, x.slots)
        return norm(self, atoms, "atoms_out_norm"), norm(self, edges, "edges_out_norm") if self.with_edges else edges


class Block(Sized):
    """A transformer block: messages from neighbours attend to each other; edge features only gather, for the forces."""

    with_edges: bool = True

    @nn.compact
    def __call__(self, atoms: Array, edges: Array, x: Features, train: bool) -> tuple[Array, Array]:
        attributes = EdgeAttributes(**self.shared(), name="attributes")(x, train)
        h = norm(self, atoms, "attention_norm")
        pairs = activation(self, EdgeDense(**self.shared(), name="pairs")(None, h, h, x.neighbours), train)
        messages = dense(self, self.hidden, "messages")(jnp.concatenate([attributes, pairs], -1))
        messages = gelu(messages)
        messages = Attention(**self.shared(), name="attention")(messages, x, train)

        def advance(x, change, name):
            x = x + change
            network = FeedForward(**self.shared(), multiplier=self.ffn_multiplier, name=name)
            return x + network(norm(self, x, f"{name}_norm"), train)

        atoms = advance(atoms, masked_mean(messages, x.slots), "atoms")
        return atoms, advance(edges, messages, "edges") if self.with_edges else edges
