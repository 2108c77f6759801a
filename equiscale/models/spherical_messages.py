"""Messages between atoms whose features are functions on the sphere: by attention there, or by tensor products.

Graphs are in dense layout; out comes the sum over the neighbours of each atom, `[*batch, atoms, K, C]`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from equiscale.models.edge_frames import coupled, into_frames, order_weights, summed_from_frames
from equiscale.models.graph_features import of_neighbours
from equiscale.models.spherical_attention import Norm, PointNorm, SphericalAttention
from equiscale.models.spherical_layers import Coefficients, DegreeLinear, by_degree, degree_of, gate
from equiscale.models.tensor_paths import paths
from equiscale.sphere.transform import Sphere, from_points


class EdgeFeatures(NamedTuple):
    """Of the edges of graphs, the same in all layers; zeros in empty slots."""

    neighbours: Int[Array, "*batch atoms k"]
    slots: Bool[Array, "*batch atoms k"]
    harmonics: Float[Array, "*batch atoms k K"]  # of the direction to the neighbour
    rbf: Float[Array, "*batch atoms k n_rbf"]
    envelope: Float[Array, "*batch atoms k"]  # 1 near the atom, 0 at the cutoff and in empty slots
    frames: Float[Array, "*batch atoms k K K"] | None  # see `edge_frames`; none where no layer needs them


class Radial(nn.Module):
    """Weights of an edge by its distance: `[*any, n_rbf]` to `[*any, *shape]`, through two layers.

    Attributes:
      mixed: a linear map of arrays `[..., *shape]` through which the weights go; their number may change.
    """

    shape: tuple[int, ...]
    width: int = 64
    mixed: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, rbf: Float[Array, "*any n_rbf"]) -> Array:
        for i in range(2):
            rbf = nn.silu(nn.LayerNorm(name=f"norm_{i}")(nn.Dense(self.width, name=f"hidden_{i}")(rbf)))
        return _Out(self.shape, self.mixed, name="out")(rbf)


class _Out(nn.Module):
    """A dense layer to an array. The map of what comes out is done to its parameters, which are fewer than edges."""

    shape: tuple[int, ...]
    mixed: Callable[[Array], Array] | None

    @nn.compact
    def __call__(self, x: Float[Array, "*any width"]) -> Array:
        n = math.prod(self.shape)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], n))
        bias = self.param("bias", nn.initializers.zeros, (n,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        kernel, bias = (a.reshape(*a.shape[:-1], *self.shape) for a in (kernel, bias))
        if self.mixed is not None:
            kernel, bias = self.mixed(kernel), self.mixed(bias)
        out = x @ kernel.reshape(len(kernel), -1) + bias.reshape(-1)
        return out.reshape(*out.shape[:-1], *bias.shape)


class Message(nn.Module):
    """What all kinds of messages are told.

    Attributes:
      radial_width: of the network of the distance.
      neighbours: about how many an atom has, so that sums over them are of size 1.
    """

    radial_width: int = 64
    neighbours: float = 16.0

    def ends(self, x: Coefficients, edges: EdgeFeatures) -> Float[Array, "*batch atoms k K C"]:
        """A linear map of the neighbour's features plus one of the atom's own: the published "aggregation"."""
        channels = x.shape[-1]
        sent = neighbours_of(DegreeLinear(channels, name="source")(x), edges)
        return sent + DegreeLinear(channels, bias=False, name="target")(x)[..., None, :, :]

    def summed(self, messages: Float[Array, "*batch atoms k K C"], edges: EdgeFeatures) -> Coefficients:
        return jnp.einsum("...nkrc,...nk->...nrc", messages, edges.envelope) / self.neighbours**0.5


def neighbours_of(x: Coefficients, edges: EdgeFeatures) -> Float[Array, "*batch atoms k K C"]:
    flat = of_neighbours(x.reshape(*x.shape[:-2], -1), edges.neighbours)
    return flat.reshape(*flat.shape[:-1], *x.shape[-2:])


def degree_weights(edges: EdgeFeatures, channels: int, width: int) -> list[Float[Array, "*batch atoms k 1 C"]]:
    """Weights of an edge's harmonics by its distance, for each degree."""
    degree = degree_of(edges.harmonics[..., None])
    weights = Radial((degree + 1, channels), width, name="edge")(edges.rbf)
    return jnp.split(weights, degree + 1, axis=-2)


def edge_functions(edges: EdgeFeatures, channels: int, width: int) -> Float[Array, "*batch atoms k K C"]:
    """Harmonics of the edge times weights by degree and channel: functions on the sphere, the same around its axis."""
    weights = degree_weights(edges, channels, width)
    harmonics = by_degree(edges.harmonics[..., None])
    return jnp.concatenate([y * w for y, w in zip(harmonics, weights, strict=True)], axis=-2)


class SphericalMessage(Message):
    """Spherical attention on each edge: queries from the atoms' features, keys and values from the edge (Fig. 2b).

    Attributes: of the attention as for `SphericalAttention`; `hidden` channels of a network at the points, 0: none.
    """

    sphere: Sphere | None = None
    norm: Norm = "coefficients"
    weighted: bool = True
    spread: float | None = 2.0
    hidden: int = 0
    items_at_once: int | None = None

    @nn.compact
    def __call__(self, x: Coefficients, edges: EdgeFeatures) -> Coefficients:
        channels = x.shape[-1]
        settings = {"norm": self.norm, "weighted": self.weighted, "spread": self.spread}
        attention = SphericalAttention(self.sphere, **settings, items_at_once=self.items_at_once, name="attention")
        messages = attention(self.ends(x, edges), edge_functions(edges, channels, self.radial_width))
        if self.hidden:
            messages = PointNorm(self.sphere, self.norm, name="norm")(messages)
            messages = nn.Dense(channels, name="out")(nn.silu(nn.Dense(self.hidden, name="in")(messages)))
        return DegreeLinear(channels, name="mix")(self.summed(from_points(self.sphere, messages), edges))


def path_weights(edges: EdgeFeatures, degree: int, channels: int, width: int) -> Float[Array, "*batch atoms k q C"]:
    """Weights of tensor products with the harmonics of edges, by distance, as `coupled` takes them."""
    mixed = partial(order_weights, degree=degree)
    return Radial((len(paths(degree)), channels), width, mixed, name="radial")(edges.rbf)


class TensorMessage(Message):
    """A tensor product of the neighbour's features with the edge's harmonics, weighted by distance (TFN, MACE)."""

    @nn.compact
    def __call__(self, x: Coefficients, edges: EdgeFeatures) -> Coefficients:
        channels, degree = x.shape[-1], degree_of(x)
        weights = path_weights(edges, degree, channels, self.radial_width)
        sent = into_frames(neighbours_of(DegreeLinear(channels, name="source")(x), edges), edges.frames)
        back = edges.frames * edges.envelope[..., None, None]
        received = summed_from_frames(coupled(sent, weights), back) / self.neighbours**0.5
        return DegreeLinear(channels, name="mix")(received)


class AttentionMessage(Message):
    """Graph attention with tensor products, as in Equiformer: scalars say how much a neighbour counts.

    Attributes:
      n_heads: into which channels are divided.
    """

    n_heads: int = 4

    @nn.compact
    def __call__(self, x: Coefficients, edges: EdgeFeatures) -> Coefficients:
        channels, degree, n_heads = x.shape[-1], degree_of(x), self.n_heads
        if channels % n_heads:
            raise ValueError(f"{channels} channels do not divide into n_heads={n_heads}")
        weights = path_weights(edges, degree, channels, self.radial_width)
        h = coupled(into_frames(self.ends(x, edges), edges.frames), weights)
        scalars = h[..., 0, :]
        logits = smooth_leaky_relu(nn.Dense(channels, name="logit_in")(scalars))
        logits = logits.reshape(*logits.shape[:-1], n_heads, -1)
        ahead = self.param("logit_out", nn.initializers.lecun_normal(), logits.shape[-2:])
        share = attention_shares(jnp.einsum("...hd,hd->...h", logits, ahead), edges)
        values = gate(DegreeLinear(channels, name="value_in")(h), nn.Dense(channels, name="value_gate")(scalars))
        internal = self.param("second_product", nn.initializers.normal(1.0), (len(paths(degree)), channels))
        values = coupled(values, order_weights(internal, degree))
        values = DegreeLinear(channels, name="value_out")(values)
        share = jnp.repeat(share, channels // n_heads, axis=-1)[..., None, :]
        return DegreeLinear(channels, name="mix")(summed_from_frames(values * share, edges.frames))


def attention_shares(logits: Float[Array, "*batch atoms k h"], edges: EdgeFeatures) -> Float[Array, "*batch atoms k h"]:
    """Softmax over neighbours times the envelope, which also weighs them in its sum; zeros without a neighbour."""
    filled = edges.slots[..., None]
    top = jnp.max(jnp.where(filled, logits, -jnp.inf), axis=-2, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    weight = edges.envelope[..., None] * jnp.exp(jnp.where(filled, logits - top, 0))
    return weight / (jnp.sum(weight, axis=-2, keepdims=True) + 1e-9) * edges.envelope[..., None]


def smooth_leaky_relu(x: Array, slope: float = 0.2) -> Array:
    """Equiformer's: (1 + a) / 2 x + (1 - a) / 2 x (2 sigmoid(x) - 1)."""
    return 0.5 * (1 + slope) * x + 0.5 * (1 - slope) * x * (2 * nn.sigmoid(x) - 1)
