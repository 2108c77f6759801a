"""A force field of tensor products on e3nn: exactly equivariant, for comparison with models that learn to be.

Messages are tensor products of a neighbour's features with spherical harmonics of the edge, weighted by a network of
the distance (Thomas et al., arXiv 1802.08219; Batzner et al., Nature Communications 2022, 13, 2453). Features are
scalars, vectors and tensors of even parity under reflection in the sense of polar vectors: 0e, 1o, 2e.
"""

from __future__ import annotations  # evaluated, they would import e3nn

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from equiscale.data.graphs import Graph
from equiscale.models import e3nn
from equiscale.models.force_head import Prediction, conservative
from equiscale.models.graph_features import check_graph, edges, envelope, gaussians, of_neighbours
from equiscale.solid_harmonics import solid_harmonics


def _size(c: int, n_layers: int, radial_features: int) -> dict:
    return {"multiplicities": (4 * c, 2 * c, c), "n_layers": n_layers, "radial_features": radial_features}


# Fields of `TensorField`, named by the number of parameters; `GraphTransformer` has the same names.
PRESETS = {
    "cpu_0.008M": _size(4, 2, 12),
    "cpu_0.02M": _size(7, 2, 24),
    "cpu_0.1M": _size(15, 3, 48),
    "cpu_0.4M": _size(25, 3, 96),
    "1M": _size(35, 4, 128),
    "4M": _size(74, 4, 256),
    "6M": _size(80, 5, 256),
}


class Interaction(nn.Module):
    """Messages from neighbours, summed, mixed with the atom's own features and gated.

    Attributes:
      irreps: of the features that come out.
      radial_features: width of the network of the distance.
      neighbours: about how many messages come in.
    """

    irreps: e3nn.Irreps
    radial_features: int
    neighbours: float

    @nn.compact
    def __call__(
        self, h: e3nn.IrrepsArray, graph: Graph, harmonics: e3nn.IrrepsArray, radial: Array
    ) -> e3nn.IrrepsArray:
        irreps = e3nn.Irreps(self.irreps)  # flax made it a tuple

        def linear(irreps, name):
            return e3nn.flax.Linear(irreps, force_irreps_out=True, name=name)

        h = linear(h.irreps, "before")(h)
        sent = e3nn.IrrepsArray(h.irreps, of_neighbours(h.array, graph.neighbours))
        messages = e3nn.tensor_product(sent, harmonics, filter_ir_out=[ir for _, ir in irreps])
        weights = nn.silu(nn.Dense(self.radial_features, use_bias=False, name="radial")(radial))
        weights = nn.Dense(messages.irreps.num_irreps, use_bias=False, name="paths")(weights)
        received = e3nn.sum(messages * weights, axis=-2) / self.neighbours**0.5
        (n_scalars, scalar), *gated = irreps
        before = e3nn.Irreps([(n_scalars + sum(mul for mul, _ in gated), scalar), *gated])
        return e3nn.gate(linear(before, "after")(received) + linear(before, "self")(h), even_gate_act=nn.sigmoid)


class TensorField(nn.Module):
    """Energies `[*batch]` and forces `[*batch, atoms, 3]` of the structures in a `Graph`; see `Prediction`.

    Exactly equivariant under rotations and reflections. Padding atoms and empty slots change nothing; an atom without
    neighbours gets an energy by its species and no force. Raises ValueError on inputs and fields that do not fit.

    Attributes:
      multiplicities: numbers of scalars, vectors, tensors of degree 2, and so on.
      n_layers: rounds of messages.
      n_rbf: Gaussians of the distance.
      radial_features: width of the network that weighs messages by distance.
      neighbours: about how many an atom has, so that sums of messages are of size 1.
      cutoff: where messages end, smoothly, in angstrom; that of the graph's edges.
      forces: "direct" ones, vectors of the last layer, or the energy's negative "gradient".
      n_species: rows of the species' table: one more than the highest atomic number.
    """

    multiplicities: tuple[int, ...] = (24, 12, 6)
    n_layers: int = 3
    n_rbf: int = 32
    radial_features: int = 32
    neighbours: float = 16.0
    cutoff: float = 6.0
    forces: Literal["direct", "gradient"] = "direct"
    n_species: int = 110

    def setup(self):
        if self.forces not in ("direct", "gradient"):
            raise ValueError(f"forces must be one of ('direct', 'gradient'), got {self.forces!r}")
        if len(self.multiplicities) < 2 or self.n_rbf < 2 or not self.cutoff > 0:
            raise ValueError(
                f"multiplicities {self.multiplicities} need scalars and vectors, n_rbf {self.n_rbf} 2 or more, and the "
                f"cutoff must be positive, got {self.cutoff}"
            )
        irreps = e3nn.Irreps([(mul, (degree, (-1) ** degree)) for degree, mul in enumerate(self.multiplicities)])
        self.species = nn.Embed(self.n_species, self.multiplicities[0])
        self.layers = [Interaction(irreps, self.radial_features, self.neighbours) for _ in range(self.n_layers)]
        self.energy_in = nn.Dense(self.multiplicities[0])
        # So small a start that energies and forces begin near zero, as those of `EnergyHead` do.
        small = nn.initializers.variance_scaling(1e-2, "fan_avg", "uniform")
        self.energy_out = nn.Dense(1, use_bias=False, kernel_init=small)
        if self.forces == "direct":
            self.force_out = self.param("force_out", nn.initializers.normal(0.1), (self.multiplicities[1],))

    def __call__(self, graph: Graph, *, train: bool = False) -> Prediction:
        check_graph(graph)
        if self.forces == "gradient":
            return conservative(self, lambda model, moved: model._energy(model._features(moved), moved), graph)
        h = self._features(graph)
        vectors = h.chunks[1]
        forces = jnp.einsum("...mc,m->...c", vectors, self.force_out.astype(vectors.dtype), precision="highest")
        return Prediction(self._energy(h, graph), jnp.where(graph.is_atom[..., None], forces, 0))

    def by_degree(self, graph: Graph, *, train: bool = False) -> tuple[Float[Array, "*batch atoms m c"], ...]:
        """The last layer's features, an entry a degree: for heads as `QuantityHead`."""
        check_graph(graph)
        return tuple(jnp.swapaxes(chunk, -1, -2) for chunk in self._features(graph).chunks)

    def _features(self, graph: Graph) -> e3nn.IrrepsArray:
        direction, distance = edges(graph)
        smooth = graph.mask * envelope(distance / self.cutoff)
        radial = smooth[..., None] * gaussians(distance, self.cutoff, self.n_rbf)
        degree = len(self.multiplicities) - 1
        components = math.sqrt(4 * math.pi) * solid_harmonics(direction, degree)
        harmonics = e3nn.IrrepsArray(e3nn.Irreps.spherical_harmonics(degree, -1), components)
        h = e3nn.IrrepsArray(f"{self.multiplicities[0]}x0e", self.species(graph.species))
        for i, layer in enumerate(self.layers):
            update = layer(h, graph, harmonics, radial)
            h = update if i == 0 else h + update
        return h

    def _energy(self, h: e3nn.IrrepsArray, graph: Graph) -> Array:
        scalars = h.array[..., : self.multiplicities[0]]
        of_atoms = self.energy_out(nn.silu(self.energy_in(scalars)))[..., 0]
        return jnp.sum(jnp.where(graph.is_atom, of_atoms, 0), -1)
