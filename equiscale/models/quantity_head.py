"""Quantities of a whole molecule from the features of its atoms: scalars, vectors and tensors of degree 2.

A model that has `by_degree` gives each atom features of degree 0, 1, 2, ..., which turn as spherical harmonics do.
Scalars are sums, or means, over atoms of a network of degree 0. A vector is the sum over atoms of features of degree 1,
each times a gate that the network makes of degree 0; a symmetric tensor without trace the same of degree 2. The gates
do not change when the molecule turns, so the read-outs of an equivariant model are equivariant.
"""

import functools
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from equiscale.data.graphs import Graph
from equiscale.models import e3nn
from equiscale.models.graph_transformer import GraphTransformer

Pooling = Literal["sum", "mean"]


@functools.cache
def to_tensors() -> Float[np.ndarray, "3 3 5"]:
    """To symmetric tensors without trace from degree 2."""
    return np.asarray(e3nn.clebsch_gordan(1, 1, 2))


class QuantityHead(nn.Module):
    """Features by degree and their graph to {"scalars": [*batch, p], "vectors": [*batch, q, 3], "tensors":
    [*batch, r, 3, 3]}, in float32 or better; what there are none of is left out.

    Sums are over the root of `n_atoms`, so that they begin at size 1, and add up over molecules far apart. Raises
    ValueError for features of too small a degree, and for nothing to predict.

    Attributes:
      scalars: how each scalar is pooled over atoms: "sum" or "mean".
      n_vectors, n_tensors: how many of each there are.
      width: of the hidden layer.
      n_atoms: about how many a molecule has.
      charges: whether vectors and tensors also have charges of atoms, which degree 0 gives, of sum zero, times
        positions, or times their traceless squares, relative to the centroid: equivariant whatever the model.
      breaking: None: the orders m of a degree share their weights. A number: each order has weights of its own, as the
        axes have in EScAIP's `ForceHead`, which has to learn to be equivariant; they are w_E + breaking w_perp.
    """

    scalars: tuple[Pooling, ...] = ()
    n_vectors: int = 0
    n_tensors: int = 0
    width: int = 64
    n_atoms: float = 18.0
    charges: bool = False
    breaking: float | None = None

    @property
    def degree(self) -> int:
        """The largest degree that is read."""
        return 2 if self.n_tensors else 1 if self.n_vectors else 0

    @nn.compact
    def __call__(self, features: tuple[Float[Array, "*batch atoms m c"], ...], graph: Graph) -> dict[str, Array]:
        self._check(features)
        features = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in features]
        real = graph.is_atom[..., None]
        hidden = nn.silu(nn.Dense(self.width, name="hidden")(features[0][..., 0, :]))
        found = {}
        if self.scalars:
            of_atoms = jnp.where(real, _small(len(self.scalars), "scalars")(hidden), 0).sum(-2)
            mean = jnp.array([pooling == "mean" for pooling in self.scalars])
            n_atoms = jnp.maximum(real.sum(-2), 1)
            found["scalars"] = of_atoms / jnp.where(mean, n_atoms, self.n_atoms**0.5)
        if self.n_vectors:
            found["vectors"] = self._turning(1, self.n_vectors, features[1], hidden, graph)
        if self.n_tensors:
            of_degree = self._turning(2, self.n_tensors, features[2], hidden, graph)
            found["tensors"] = jnp.einsum("...qm,ijm->...qij", of_degree, to_tensors(), precision="highest")
        return found

    def _turning(self, degree: int, n: int, features: Array, hidden: Array, graph: Graph) -> Float[Array, "*batch n m"]:
        """`n` sums over atoms of gated features of one degree."""
        channels = features.shape[-1]
        name = {1: "vectors", 2: "tensors"}[degree]
        gates = _small(n * channels, f"{name}_gates", bias=False)(hidden).reshape(*hidden.shape[:-1], n, channels)
        # Points on a sphere are not quite even: an atom alone would have a direction.
        pulled = graph.is_atom & jnp.any(graph.mask, -1)
        gates = jnp.where(pulled[..., None, None], gates, 0)
        if self.breaking is None:
            total = jnp.einsum("...amc,...anc->...nm", features, gates, precision="highest")
        else:
            rows = self.param(f"{name}_rows", nn.initializers.normal(1.0), (2 * degree + 1, channels))
            shared = rows.mean(0)
            rows = (shared + self.breaking * (rows - shared)).astype(features.dtype)
            total = jnp.einsum("...amc,mc,...anc->...nm", features, rows, gates, precision="highest")
        if self.charges:
            charges = jnp.where(graph.is_atom[..., None], _small(n, f"{name}_charges", bias=False)(hidden), 0)
            charges, moments = _neutral(charges, graph), _moments(graph, degree)
            total = total + jnp.einsum("...am,...an->...nm", moments, charges, precision="highest")
        return total / self.n_atoms**0.5

    def _check(self, features: tuple[Array, ...]) -> None:
        if not self.scalars and not self.n_vectors and not self.n_tensors:
            raise ValueError("no scalars, vectors or tensors to predict: give at least one")
        unknown = sorted({pooling for pooling in self.scalars if pooling not in ("sum", "mean")})
        if unknown:
            raise ValueError(f"scalars are pooled by {', '.join(map(repr, unknown))}: give 'sum' or 'mean' for each")
        if len(features) <= self.degree:
            what = "tensors" if self.n_tensors else "vectors"
            raise ValueError(
                f"{what} are made of features of degree {self.degree}, and this model's end at degree "
                f"{len(features) - 1}: give it a larger one"
            )


def _small(features: int, name: str, bias: bool = True) -> nn.Dense:
    """So small a start that quantities begin near zero, as energies do."""
    small = nn.initializers.variance_scaling(1e-2, "fan_avg", "uniform")
    return nn.Dense(features, use_bias=bias, kernel_init=small, name=name)


def _neutral(charges: Float[Array, "*batch atoms n"], graph: Graph) -> Float[Array, "*batch atoms n"]:
    """Less their mean over real atoms."""
    n_atoms = jnp.maximum(graph.is_atom.sum(-1), 1)[..., None, None]
    return jnp.where(graph.is_atom[..., None], charges - charges.sum(-2, keepdims=True) / n_atoms, 0)


def _moments(graph: Graph, degree: int) -> Float[Array, "*batch atoms m"]:
    """Positions relative to the centroid, or their traceless squares in the basis of degree 2."""
    relative = _neutral(jnp.where(graph.is_atom[..., None], graph.positions, 0), graph)
    if degree == 1:
        return relative
    return jnp.einsum("...i,...j,ijm->...m", relative, relative, to_tensors(), precision="highest")


class QuantityNetwork(nn.Module):
    """A model, of whose own heads nothing is used, with a head for quantities: a `Graph` to what the head gives."""

    model: nn.Module
    head: QuantityHead

    def __call__(self, graph: Graph, *, train: bool = False) -> dict[str, Array]:
        return self.head(self.model.by_degree(graph, train=train), graph)


def with_quantities(model: nn.Module, **fields) -> QuantityNetwork:
    """A graph network with a head of the given fields of `QuantityHead`.

    The head of a `GraphTransformer`, whose features do not see directions, breaks equivariance as its force head does.
    """
    head = QuantityHead(**fields, breaking=model.breaking if isinstance(model, GraphTransformer) else None)
    # "direct" of a transformer: with features of edges; of others: with parameters for forces, which nothing would use.
    direct = isinstance(model, GraphTransformer) and head.degree > 0
    return QuantityNetwork(model.clone(forces="direct" if direct else "gradient"), head)
