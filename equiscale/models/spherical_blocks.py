"""What spherical networks are stacked of: an embedding, and layers of a message and an update of each atom."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equiscale.models import e3nn
from equiscale.models.graph_features import of_neighbours
from equiscale.models.spherical_layers import Coefficients, DegreeLinear, DegreeNorm, by_degree, degree_of, gate
from equiscale.models.spherical_messages import EdgeFeatures, SphericalMessage, degree_weights
from equiscale.models.tensor_paths import paths, product
from equiscale.wigner import wigner_d


class Embedding(nn.Module):
    """Features by an atom's species and its neighbours' species and directions: `[*batch, atoms, K, C]`."""

    n_species: int
    channels: int
    radial_width: int
    neighbours: float

    @nn.compact
    def __call__(self, species: Int[Array, "*batch atoms"], around: EdgeFeatures) -> Coefficients:
        own = nn.Embed(self.n_species, self.channels, name="own")(species)
        sent = nn.Embed(self.n_species, self.channels, name="sent")(species)
        sent = of_neighbours(sent, around.neighbours) * around.envelope[..., None] / self.neighbours**0.5
        weights = degree_weights(around, self.channels, self.radial_width)
        h = [
            jnp.einsum("...km,...kc->...mc", y, w[..., 0, :] * sent, precision="highest")
            for y, w in zip(by_degree(around.harmonics, -1), weights, strict=True)
        ]
        h[0] += own[..., None, :]
        return jnp.concatenate(h, axis=-2)


class Layer(nn.Module):
    """Features plus messages, plus an update, each of normed features.

    Attributes:
      turned: in training what happens on points happens between a random rotation of each structure and its inverse,
        which is the same as turning the points.
    """

    message: nn.Module
    update: nn.Module
    turned: bool = False

    @nn.compact
    def __call__(
        self, x: Coefficients, species: Int[Array, "*batch atoms"], around: EdgeFeatures, train: bool
    ) -> Coefficients:
        h = DegreeNorm(name="message_norm")(x)
        turn = self._turn(x) if self.turned and train else None
        if turn is None or not isinstance(self.message, SphericalMessage):
            x = x + self.message(h, around)
        else:
            harmonics = jnp.einsum("...ij,...nkj->...nki", turn, around.harmonics, precision="highest")
            x = x + _by(turn.mT, self.message(_by(turn, h), around._replace(harmonics=harmonics)))
        h = DegreeNorm(name="update_norm")(x)
        if turn is None:
            return x + self.update(h, species)
        return x + _by(turn.mT, self.update(_by(turn, h), species))

    def _turn(self, x: Coefficients) -> Float[Array, "*batch K K"]:
        rotation = e3nn.rand_matrix(self.make_rng("points"), x.shape[:-3], dtype=x.dtype)
        return wigner_d(rotation, degree_of(x))


def _by(turn: Float[Array, "*batch K K"], x: Float[Array, "*batch atoms K C"]) -> Coefficients:
    return jnp.einsum("...ij,...njc->...nic", turn, x, precision="highest")


class Gated(nn.Module):
    """A network of coefficients with one hidden layer of `width` channels and gates: exactly equivariant."""

    width: int

    @nn.compact
    def __call__(self, x: Coefficients, species: Any = None) -> Coefficients:
        h = DegreeLinear(self.width, name="in")(x)
        return DegreeLinear(x.shape[-1], name="out")(gate(h, nn.Dense(self.width, name="gate")(x[..., 0, :])))


class Products(nn.Module):
    """Sums of products of one, two and three of an atom's features, with weights by its species, as in MACE.

    Attributes:
      n_species: rows of the species' table.
      rank: of the weights over species, which share the rest.
    """

    n_species: int
    rank: int = 16

    @nn.compact
    def __call__(self, x: Coefficients, species: Int[Array, "*batch atoms"]) -> Coefficients:
        channels = x.shape[-1]
        n_paths = len(paths(degree_of(x)))

        of_species = nn.Embed(self.n_species, self.rank, name="species")(species)

        def weights(name):
            found = nn.Dense(n_paths * channels, use_bias=False, name=name)(of_species)
            return found.reshape(*species.shape, n_paths, channels).astype(x.dtype)

        twice = product(x, x, weights("second"))
        thrice = product(twice, x, weights("third"))
        features = jnp.concatenate([x, twice, thrice], axis=-1)
        return DegreeLinear(channels, name="mix")(DegreeNorm(name="norm")(features))
