"""The heads of the force fields in this package: energies of atoms, and forces that break equivariance in one place."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from equiscale.data.graphs import Graph
from equiscale.models.graph_layers import FeedForward, Sized, xavier
from equiscale.subspace import force_head


class Prediction(NamedTuple):
    """Of a force field, in the units it was trained on: eV and eV/angstrom, or multiples of them."""

    energy: Float[Array, "*batch"]
    forces: Float[Array, "*batch atoms 3"]


class ForceMoments(NamedTuple):
    """All that direct forces depend on: force_k of an atom is moments[k] . weight[k], for k = x, y, z.

    A rotation T of the structure makes T @ moments of the moments and leaves the weight. See
    `equiscale.force_algebra`.
    """

    moments: Float[Array, "*batch atoms 3 h"]
    weight: Float[Array, "3 h"]


class EnergyHead(Sized):
    """An energy from the features of each atom, `[..., atoms, h]` to `[..., atoms]`, in float32 or better."""

    @nn.compact
    def __call__(self, atoms: Array, train: bool) -> Array:
        # So small a start that the energy begins near zero: the published gain.
        network = FeedForward(**self.shared(), multiplier=self.output_multiplier, gain=0.01, name="network")
        return _to_scalar(self, atoms + network(atoms, train), 0.01)


class ForceHead(Sized):
    """Direct forces: a sum over edges of their unit vectors, each axis with its own function of the edge's features.

    M_i = s_i sum_j u_ij h_ij^T with u the unit vectors, h invariant features of edges and s an invariant scalar of
    atoms; force_k = M_k . w_k with one row of weights for each of x, y, z. The rows being different is all that keeps
    it from equivariance (section 4.3 of the training-dynamics paper, whose Eq. 14 leaves out s).

    Attributes:
      breaking: the rows are w_E + breaking w_perp: 1 leaves the parameters as they are, as published; 0 gives all
        rows their mean, the exactly equivariant twin.
      gain: of the rows' initial weights over the published ones, with which small models' forces start three to
        twenty times as large as those of molecules.
    """

    breaking: float = 1.0
    gain: float = 1.0

    @nn.compact
    def __call__(self, atoms: Array, edges: Array, direction: Array, train: bool) -> ForceMoments:
        edges = edges + FeedForward(**self.shared(), multiplier=self.output_multiplier, name="network")(edges, train)
        network = FeedForward(**self.shared(), multiplier=self.output_multiplier, name="magnitude")
        magnitude = _to_scalar(self, atoms + network(atoms, train))
        weight = self.param("weight", xavier(self.gain), (3, self.hidden), self.param_dtype)
        if self.breaking != 1:
            weight = force_head(weight).scaled(self.breaking)
        edges, direction, magnitude, weight = nn.dtypes.promote_dtype(edges, direction, magnitude, weight)
        moments = jnp.einsum("...kc,...kh->...ch", direction, edges, precision=lax.Precision.HIGHEST)
        return ForceMoments(magnitude[..., None, None] * moments, weight)


def conservative(
    model: nn.Module, energy: Callable[[nn.Module, Graph], Float[Array, "*batch"]], graph: Graph
) -> Prediction:
    """An energy of `energy(model, graph)` and, as forces, its negative gradient: equivariant always."""

    def of(model, positions):
        return energy(model, graph._replace(positions=positions))

    found, pull = nn.vjp(of, model, graph.positions, vjp_variables=False)
    return Prediction(found, -pull(jnp.ones_like(found))[-1])


def _to_scalar(head: Sized, x: Array, gain: float = 1.0) -> Array:
    """A linear map to one number, without bias, in float32 or better."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    layer = nn.Dense(1, use_bias=False, kernel_init=xavier(gain), param_dtype=head.param_dtype, name="scalar")
    return layer(x)[..., 0]
