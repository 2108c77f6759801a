"""EScAIP, a graph transformer for energies and forces (arXiv 2410.24169; version 1 of its public code).

All it computes with is invariant under rotations: species, distances, angles between edges of one atom and
bond-orientational order. Directions enter only where direct forces are made, `ForceHead`, and there alone equivariance
can break; forces that are the energy's gradient are equivariant always.

Without the periodic cell the published code puts around molecules: its images would break the symmetry.
"""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from equiscale import force_algebra
from equiscale.data.graphs import Graph
from equiscale.models.force_head import EnergyHead, ForceHead, ForceMoments, Prediction, conservative
from equiscale.models.graph_features import Features, features
from equiscale.models.graph_layers import Block, InputBlock, Readout, Sized, dense, gelu, norm
from equiscale.solid_harmonics import solid_harmonics

_CPU = {
    "n_rbf": 64,
    "radial_features": 64,
    "order_features": 32,
    "species_features": 32,
    "n_heads": 4,
    "cutoff": 6.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}

# Fields of `GraphTransformer`. "6M" is the published model for SPICE (6,137,222 parameters; the Hessian's 33 thousand
# of the training-dynamics paper fit it with output_multiplier 1). Of "4M" and "1M" that paper tells the label only.
# Those for CPUs are named by their number of parameters and go without dropout; they are for graphs within 6 angstrom.
PRESETS = {
    "cpu_0.008M": {
        "hidden": 8,
        "n_layers": 1,
        **_CPU,
        "n_rbf": 16,
        "radial_features": 16,
        "species_features": 8,
        "order_features": 8,
    },
    "cpu_0.02M": {"hidden": 16, "n_layers": 1, **_CPU, "n_rbf": 32, "radial_features": 32, "species_features": 16},
    "cpu_0.1M": {"hidden": 32, "n_layers": 2, **_CPU},
    "cpu_0.4M": {"hidden": 64, "n_layers": 2, **_CPU},
    "1M": {"hidden": 64, "n_layers": 1},
    "4M": {"hidden": 128, "n_layers": 4},
    "6M": {"hidden": 128, "n_layers": 6},
}


class Layer(Sized):
    """A block and the readout after it; for scanning."""

    with_edges: bool = True
    train: bool = False

    @nn.compact
    def __call__(self, carry: tuple[Array, Array], x: Features) -> tuple[tuple[Array, Array], tuple]:
        fields = self.shared() | {"with_edges": self.with_edges}
        atoms, edges = Block(**fields, name="block")(*carry, x, self.train)
        return (atoms, edges), Readout(**fields, name="readout")(atoms, edges, self.train)


class Backbone(Sized):
    """Features of atoms `[*batch, atoms, h]` and, `with_edges`, of edges `[*batch, atoms, k, h]`, all invariant.

    Attributes as in `GraphTransformer`.
    """

    n_layers: int = 6
    with_edges: bool = True
    remat: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: Features, train: bool) -> tuple[Array, Array | None]:
        fields = self.shared() | {"with_edges": self.with_edges}
        carry = InputBlock(**fields, name="input")(x, train)
        readouts = [Readout(**fields, name="input_readout")(*carry, train)]
        layer = nn.remat(Layer, prevent_cse=not self.scan) if self.remat else Layer
        if self.scan:
            every = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
            layers = nn.scan(layer, **every, in_axes=nn.broadcast, length=self.n_layers)
            _, stacked = layers(**fields, train=train, name="layers")(carry, x)
            stacked = [None if r is None else jnp.moveaxis(r, 0, -2) for r in stacked]
            readouts.append([None if r is None else r.reshape(*r.shape[:-2], -1) for r in stacked])
        else:
            for i in range(self.n_layers):
                carry, readout = layer(**fields, train=train, name=f"layer_{i}")(carry, x)
                readouts.append(readout)

        def project(readouts, name):
            joined = norm(self, jnp.concatenate(readouts, -1), f"{name}_readout_norm")
            return norm(self, gelu(dense(self, self.hidden, name)(joined)), f"{name}_norm")

        atoms, edges = zip(*readouts, strict=True)
        return project(atoms, "atoms"), project(edges, "edges") if self.with_edges else None


class GraphTransformer(Sized):
    """Energies `[*batch]` and forces `[*batch, atoms, 3]` of the structures in a `Graph`; see `Prediction`.

    Padding atoms and empty slots change nothing, and padding atoms get no force. An atom without neighbours gets an
    energy by its species and no direct force. `init` and `apply` raise ValueError on inputs and fields that do not
    fit; a species beyond the tables makes the output NaN. Dropout needs the rng "dropout" when `train` is true.

    Attributes, besides those of `Sized`:
      n_layers: transformer blocks.
      n_rbf: Gaussians of the distance.
      n_degrees: degrees of the bond-orientational order, from 0 on.
      cutoff: where the Gaussians end, in angstrom; that of the graph's edges.
      energy: sum over atoms, or their "mean" as in the published configuration.
      forces: "direct" ones by `ForceHead`, or the energy's negative "gradient", without a force head and all that
        leads to it.
      breaking: how unequal the rows of the force head are; see `ForceHead`.
      force_gain: how large direct forces start, over the published start; see `ForceHead`.
      remat: recompute each block in the backward pass instead of storing what is inside it.
      scan: one compiled block for all, with parameters stacked under "layers": starts sooner, steps slower on CPU.
    """

    n_layers: int = 6
    n_rbf: int = 600
    n_degrees: int = 10
    cutoff: float = 12.0
    energy: Literal["sum", "mean"] = "sum"
    forces: Literal["direct", "gradient"] = "direct"
    breaking: float = 1.0
    force_gain: float = 1.0
    remat: bool = False
    scan: bool = False

    def setup(self):
        self._check()
        fields, direct = self.shared(), self.forces == "direct"
        self.backbone = Backbone(**fields, n_layers=self.n_layers, with_edges=direct, remat=self.remat, scan=self.scan)
        self.energy_head = EnergyHead(**fields)
        if direct:
            self.force_head = ForceHead(**fields, breaking=self.breaking, gain=self.force_gain)

    def __call__(self, graph: Graph, *, train: bool = False) -> Prediction:
        if self.forces == "gradient":
            return conservative(
                self, lambda model, x: model._energy(model.backbone(model._features(x), train)[0], x, train), graph
            )
        x = self._features(graph)
        atoms, edges = self.backbone(x, train)
        found = self.force_head(atoms, edges, x.direction, train)
        return Prediction(self._energy(atoms, graph, train), force_algebra.forces(*found))

    def force_moments(self, graph: Graph, *, train: bool = False) -> ForceMoments:
        """What direct forces are made of, in one pass: for `equiscale.force_algebra`.

        `model.apply(params, graph, method="force_moments")`. Raises ValueError for forces that are gradients.
        """
        if self.forces == "gradient":
            raise ValueError('only forces="direct" have moments; those of forces="gradient" are equivariant always')
        x = self._features(graph)
        return self.force_head(*self.backbone(x, train), x.direction, train)

    def by_degree(self, graph: Graph, *, train: bool = False) -> tuple[Float[Array, "*batch atoms m c"], ...]:
        """Features of atoms, an entry a degree: for heads as `QuantityHead`.

        Degree 0 are those of the last layer. Of degrees 1 and 2, which the layers do not have, are sums over edges of
        spherical harmonics times the edges' features, as the force head's moments are; with gradient forces, which need
        no features of edges, there are none.
        """
        x = self._features(graph)
        atoms, edges = self.backbone(x, train)
        if edges is None:
            return (atoms[..., None, :],)
        # An empty slot has no direction: all zeros, and so harmonics.
        harmonics = math.sqrt(4 * math.pi) * solid_harmonics(x.direction, 2)
        edges = edges.astype(harmonics.dtype)
        moments = [
            jnp.einsum("...km,...kc->...mc", of_degree, edges, precision="highest")
            for of_degree in (harmonics[..., 1:4], harmonics[..., 4:])
        ]
        return (atoms[..., None, :], *moments)

    def _features(self, graph: Graph) -> Features:
        return features(graph, self.cutoff, self.n_rbf, self.n_degrees)

    def _energy(self, atoms: Array, graph: Graph, train: bool) -> Array:
        total = jnp.sum(jnp.where(graph.is_atom, self.energy_head(atoms, train), 0), -1)
        return total / jnp.maximum(graph.is_atom.sum(-1), 1) if self.energy == "mean" else total

    def _check(self) -> None:
        for name, offered in (("energy", ("sum", "mean")), ("forces", ("direct", "gradient"))):
            if getattr(self, name) not in offered:
                raise ValueError(f"{name} must be one of {offered}, got {getattr(self, name)!r}")
        if self.forces == "gradient" and self.energy == "mean":
            raise ValueError('the gradient of a mean energy is no force: with forces="gradient" give energy="sum"')
        if self.n_rbf < 2 or self.n_degrees < 1 or not self.cutoff > 0:
            raise ValueError(
                f"n_rbf {self.n_rbf} must be 2 or more, n_degrees {self.n_degrees} 1 or more, and the cutoff positive, "
                f"got {self.cutoff}"
            )
