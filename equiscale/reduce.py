"""Mergeable sums: the moments from which every reported number and its standard error are computed.

One row of values per independent example (or cluster of examples) goes in; counts, means and co-moments come out.
They merge exactly over batches (`+`) and over devices (`psum`), and division comes last, so uneven batches, padding
and any split over devices give the same numbers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

AxisName = str | tuple[str, ...] | None


def psum(x, axis_name: AxisName):
    """`jax.lax.psum` over a mapped axis, or x itself when none is named."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, means and summed co-deviations of `v` values over independent units.

    Two sets are merged by the pairwise update of Chan, Golub and LeVeque, which subtracts means, never large sums
    of squares.
    """

    count: Float[Array, ""]
    mean: Float[Array, " v"]
    comoment: Float[Array, "v v"]

    @staticmethod
    @jax.jit
    def of(values: Float[Array, "n v"], present: Bool[Array, " n"]) -> "Moments":
        """Moments of the rows of `values` that are `present`."""
        weight = present.astype(values.dtype)
        values = jnp.where(present[:, None], values, 0)
        count = weight.sum()
        mean = values.sum(0) / jnp.maximum(count, 1)
        deviation = jnp.where(present[:, None], values - mean, 0)
        return Moments(count, mean, _gram(deviation))

    def __add__(self, other: "Moments") -> "Moments":
        return jax.tree.map(lambda a, b: jnp.stack([a, b]), self, other)._merged(lambda x: x.sum(0))

    def psum(self, axis_name: AxisName) -> "Moments":
        """The moments over all devices of a mapped axis; a plain call (None) changes nothing."""
        return self if axis_name is None else self._merged(lambda x: jax.lax.psum(x, axis_name))

    def _merged(self, add) -> "Moments":
        count = add(self.count)
        mean = add(self.count[..., None] * self.mean) / jnp.maximum(count, 1)
        shift = self.mean - mean
        between = self.count[..., None, None] * shift[..., :, None] * shift[..., None, :]
        return Moments(count, mean, add(self.comoment + between))

    def ratio(self, over: Float[Array, " v"], under: Float[Array, " v"]) -> Float[Array, ""]:
        """The ratio of two linear combinations of the sums."""
        return jnp.sum(over * self.mean) / jnp.sum(under * self.mean)

    def ratio_stderr(self, over: Float[Array, " v"], under: Float[Array, " v"]) -> Float[Array, ""]:
        """Its standard error by the delta method: Var(p) = Var(a - p b) / (n mean(b)^2); NaN for one unit."""
        residual = over - self.ratio(over, under) * under
        variance = jnp.sum(residual[:, None] * self.comoment * residual) / (self.count - 1)
        stderr = jnp.sqrt(jnp.maximum(variance, 0) / self.count) / jnp.abs(jnp.sum(under * self.mean))
        return jnp.where(self.count > 1, stderr, jnp.nan)


def _gram(x: Float[Array, "n v"]) -> Float[Array, "v v"]:
    return jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST)


def by_cluster(
    values: Float[Array, "n v"], present: Bool[Array, " n"], clusters: Int[Array, " n"] | None
) -> tuple[Float[Array, "n v"], Bool[Array, " n"]]:
    """Sum rows of one cluster (conformers of a molecule) into one independent unit; ids are in 0..n-1."""
    if clusters is None:
        return values, present
    n = len(values)
    summed = jax.ops.segment_sum(jnp.where(present[:, None], values, 0), clusters, n)
    return summed, jax.ops.segment_sum(present.astype(int), clusters, n) > 0
