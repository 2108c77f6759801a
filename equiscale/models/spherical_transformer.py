"""The Equivariant Spherical Transformer (arXiv 2505.23086) and the equivariant networks it is measured against.

All have atoms whose features are functions on the sphere, `[atoms, K, C]`, and differ in how messages are made and in
how atoms are updated:

    est_published, est_exact        attention over points of the sphere in both
    est_published_ga, est_exact_ga  messages by graph attention with tensor products, updates as before ("EST with GA")
    equiformer                      messages by graph attention with tensor products, gates
    tfn                             messages by tensor products, gates
    mace                            messages by tensor products, products of up to three features, species by species

The last three are exactly equivariant; the others up to the quadrature of their points. Published ones are as
released: Fibonacci lattices with poles, layer norms at points, free attention, points turned at random in training.
Exact ones have spherical designs, norms of coefficients and a capped spread of attention.
"""

from collections.abc import Iterator
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from equiscale.data.graphs import Graph
from equiscale.models.edge_frames import edge_frames
from equiscale.models.force_head import Prediction, conservative
from equiscale.models.graph_features import check_graph, edges, envelope, gaussians
from equiscale.models.hybrid_experts import HybridExperts
from equiscale.models.spherical_attention import Norm
from equiscale.models.spherical_blocks import Embedding, Gated, Layer, Products
from equiscale.models.spherical_layers import Coefficients, DegreeNorm
from equiscale.models.spherical_messages import (
    AttentionMessage,
    EdgeFeatures,
    SphericalMessage,
    TensorMessage,
)
from equiscale.solid_harmonics import solid_harmonics
from equiscale.sphere.transform import Sphere, sphere_of

_EXACT = {"rule": "design", "inverse": "least_squares", "norm": "coefficients", "spread": 2.0, "turned": False}
_PUBLISHED = {"rule": "fibonacci_poles", "inverse": "columns", "norm": "points", "spread": None, "turned": True}

# Fields of `SphericalTransformer` by kind, and by size.
KINDS: dict[str, dict[str, Any]] = {
    "est_exact": {"message": "spherical", "update": "experts", **_EXACT},
    "est_exact_ga": {"message": "attention", "update": "experts", **_EXACT},
    "est_published": {"message": "spherical", "update": "experts", **_PUBLISHED},
    "est_published_ga": {"message": "attention", "update": "experts", **_PUBLISHED},
    "equiformer": {"message": "attention", "update": "gate"},
    "tfn": {"message": "tensor", "update": "gate"},
    "mace": {"message": "tensor", "update": "product"},
}


def _ladder(*channels: int) -> dict[str, dict[str, int]]:
    """Fields by size: so many channels, hidden layers twice as wide, with their layers and radial networks."""
    sizes = {"cpu_0.02M": (2, 32), "cpu_0.1M": (2, 32), "cpu_0.4M": (3, 64), "1M": (4, 64), "4M": (6, 64)}
    return {
        size: {"channels": c, "hidden": 2 * c, "n_layers": n, "radial_width": width, "n_rbf": width}
        for c, (size, (n, width)) in zip(channels, sizes.items(), strict=True)
    }


# By kind, then size, named by the number of parameters as those of `GraphTransformer`.
_SIZES = {
    "est_exact": _ladder(12, 32, 52, 76, 132),
    "est_exact_ga": _ladder(8, 28, 44, 64, 116),
    "est_published": _ladder(12, 32, 52, 76, 132),
    "est_published_ga": _ladder(8, 28, 44, 64, 116),
    "equiformer": _ladder(8, 28, 48, 72, 128),
    "tfn": _ladder(8, 32, 52, 84, 156),
    "mace": _ladder(4, 28, 48, 84, 160),
}
PRESETS = {f"{kind}_{size}": KINDS[kind] | fields for kind, sizes in _SIZES.items() for size, fields in sizes.items()}


class SphericalTransformer(nn.Module):
    """Energies `[*batch]` and forces `[*batch, atoms, 3]` of the structures in a `Graph`; see `Prediction`.

    Padding atoms and empty slots change nothing; an atom without neighbours gets an energy by its species and no force.
    Raises ValueError on inputs and fields that do not fit, among them fewer points than the degree needs.

    Attributes:
      message: "spherical" attention, graph "attention" or "tensor" products.
      update: mixture of hybrid "experts", "gate", or "product" of features.
      degree: L, the largest of the features' spherical harmonics.
      channels: C, of every degree.
      n_layers: rounds of messages and updates.
      points: S, on the sphere.
      rule: of the points, and `inverse` of their transform: see `equiscale.sphere`.
      norm, weighted, spread, items_at_once: of spherical attention, see `SphericalAttention`.
      turned: in training the points of each layer are turned at random, one rotation a structure (rng "points").
      n_steerable, n_spherical, n_shared, top_k, balance, bypass, attend: of the experts, see `HybridExperts`.
      hidden: channels of one expert, or of the gated network.
      message_hidden: channels of a network at the points of messages; 0: none.
      n_heads: of graph attention.
      n_rbf, radial_width: Gaussians of the distance and the width of networks of them.
      neighbours: about how many an atom has.
      cutoff: where messages end, smoothly, in angstrom; that of the graph's edges.
      forces: "direct" ones, vectors of the last layer, or the energy's negative "gradient".
      n_species: rows of the species' table: one more than the highest atomic number.
    """

    message: Literal["spherical", "attention", "tensor"] = "spherical"
    update: Literal["experts", "gate", "product"] = "experts"
    degree: int = 2
    channels: int = 16
    n_layers: int = 2
    points: int = 94
    rule: str = "design"
    inverse: str = "least_squares"
    norm: Norm = "coefficients"
    weighted: bool = True
    spread: float | None = 2.0
    turned: bool = False
    n_steerable: int = 1
    n_spherical: int = 1
    n_shared: int = 0
    top_k: int | None = None
    balance: float = 0.0
    bypass: bool = True
    attend: bool = True
    hidden: int = 32
    message_hidden: int = 0
    n_heads: int = 4
    n_rbf: int = 32
    radial_width: int = 32
    neighbours: float = 16.0
    cutoff: float = 6.0
    forces: Literal["direct", "gradient"] = "direct"
    n_species: int = 110
    items_at_once: int | None = None

    def check(self) -> None:
        """Raises ValueError for fields that do not fit, as `init` and `apply` do, before anything is computed."""
        known = {
            "message": ("spherical", "attention", "tensor"),
            "update": ("experts", "gate", "product"),
            "forces": ("direct", "gradient"),
            "norm": ("coefficients", "points", "none"),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {values}, got {getattr(self, name)!r}")
        if self.degree < 1 or self.n_layers < 1 or self.n_rbf < 2 or not self.cutoff > 0:
            raise ValueError(
                f"degree {self.degree} and n_layers {self.n_layers} must be at least 1, n_rbf {self.n_rbf} at least 2 "
                f"and the cutoff positive, got {self.cutoff}"
            )
        self._sphere()

    def setup(self):
        self.check()
        self.embedding = Embedding(self.n_species, self.channels, self.radial_width, self.neighbours)
        self.layers = [self._layer(i) for i in range(self.n_layers)]
        self.last_norm = DegreeNorm()
        self.energy_in = nn.Dense(self.channels)
        # So small a start that energies and forces begin near zero, as those of `EnergyHead` do.
        small = nn.initializers.variance_scaling(1e-2, "fan_avg", "uniform")
        self.energy_out = nn.Dense(1, use_bias=False, kernel_init=small)
        if self.forces == "direct":
            self.force_in = nn.Dense(self.channels)
            self.force_out = nn.Dense(self.channels, use_bias=False, kernel_init=small)

    @property
    def is_sampled(self) -> bool:
        """Whether anything is done at points of a sphere, so that equivariance is not exact."""
        return self.message == "spherical" or (self.update == "experts" and self.n_spherical > 0)

    @property
    def attends(self) -> bool:
        """Whether there is spherical attention."""
        return self.message == "spherical" or (self.is_sampled and self.attend)

    def _sphere(self) -> Sphere | None:
        return sphere_of(self.rule, self.points, self.degree, self.inverse) if self.is_sampled else None

    def _layer(self, i: int) -> Layer:
        sphere = self._sphere()
        attention = {"norm": self.norm, "weighted": self.weighted, "spread": self.spread}
        attention["items_at_once"] = self.items_at_once
        told = {"radial_width": self.radial_width, "neighbours": self.neighbours}
        if self.message == "spherical":
            message = SphericalMessage(**told, sphere=sphere, hidden=self.message_hidden, **attention)
        elif self.message == "attention":
            message = AttentionMessage(**told, n_heads=self.n_heads)
        else:
            message = TensorMessage(**told)
        if self.update == "experts":
            numbers = {name: getattr(self, name) for name in ("n_steerable", "n_spherical", "n_shared", "top_k")}
            widths = {"steerable_width": self.hidden, "spherical_width": self.hidden}
            more = {"balance": self.balance, "bypass": self.bypass, "attend": self.attend}
            update = HybridExperts(sphere, **numbers, **widths, **more, **attention)
        elif self.update == "gate":
            update = Gated(self.hidden)
        else:
            update = Products(self.n_species)
        return Layer(message, update, self.turned and self.is_sampled)

    def __call__(self, graph: Graph, *, train: bool = False) -> Prediction:
        check_graph(graph)
        if self.forces == "gradient":

            def energy(model, moved):
                return model._energy(model.atoms(moved, train=train)[..., 0, :], moved)

            return conservative(self, energy, graph)
        return self._direct(self.atoms(graph, train=train), graph)

    def after_each_layer(self, graph: Graph) -> list[Prediction]:
        """What the networks of the first 1, 2, ... layers predict, with direct forces: an entry a layer.

        With parameters as they are made, each is an untrained network of so many layers. Raises ValueError where
        forces are gradients.
        """
        check_graph(graph)
        if self.forces != "direct":
            raise ValueError(f"forces={self.forces!r}: only direct forces are read off after each layer")
        return [self._direct(self.last_norm(h), graph) for h in self._by_layer(graph)]

    def atoms(self, graph: Graph, *, train: bool = False) -> Coefficients:
        """The last layer's features `[*batch, atoms, K, C]`, normed: degree 1 is x, y, z."""
        *_, h = self._by_layer(graph, train=train)
        return self.last_norm(h)

    def _by_layer(self, graph: Graph, *, train: bool = False) -> Iterator[Coefficients]:
        around = self._edges(graph)
        h = self.embedding(graph.species, around)
        for layer in self.layers:
            h = layer(h, graph.species, around, train)
            yield h

    def _direct(self, h: Coefficients, graph: Graph) -> Prediction:
        gates = self.force_out(nn.silu(self.force_in(h[..., 0, :])))
        forces = jnp.einsum("...mc,...c->...m", h[..., 1:4, :], gates, precision="highest")
        pulled = graph.is_atom & jnp.any(graph.mask, -1)  # points are not quite even: without this, an atom alone moves
        return Prediction(self._energy(h[..., 0, :], graph), jnp.where(pulled[..., None], forces, 0))

    def by_degree(self, graph: Graph, *, train: bool = False) -> tuple[Float[Array, "*batch atoms m c"], ...]:
        """The last layer's features, an entry a degree: for heads as `QuantityHead`."""
        check_graph(graph)
        h = self.atoms(graph, train=train)
        return tuple(h[..., d * d : (d + 1) ** 2, :] for d in range(self.degree + 1))

    def _edges(self, graph: Graph) -> EdgeFeatures:
        direction, distance = edges(graph)
        filled = graph.mask[..., None]
        up = jnp.zeros_like(direction).at[..., 1].set(1)  # of empty slots, whose harmonics are not defined
        outward = jnp.where(filled, -direction, up)
        harmonics = jnp.where(filled, solid_harmonics(outward, self.degree), 0)
        rbf = jnp.where(filled, gaussians(distance, self.cutoff, self.n_rbf), 0)
        return EdgeFeatures(
            graph.neighbours,
            graph.mask,
            harmonics,
            rbf,
            jnp.where(graph.mask, envelope(distance / self.cutoff), 0),
            None if self.message == "spherical" else edge_frames(outward, self.degree),
        )

    def _energy(self, scalars: Float[Array, "*batch atoms c"], graph: Graph) -> Float[Array, "*batch"]:
        of_atoms = self.energy_out(nn.silu(self.energy_in(scalars)))[..., 0]
        return jnp.sum(jnp.where(graph.is_atom, of_atoms, 0), -1)
