"""Layers of features that are functions on the sphere, kept as coefficients of spherical harmonics.

Features are `[*items, K, C]`: K = (L + 1)^2 rows, row l^2 + l + m of degree l and order m, the same number of channels
C in every degree. What a rotation does to them is mix the rows of one degree, alike in all channels; the layers here
commute with that exactly.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Coefficients = Float[Array, "*items k c"]


def degree_of(x: Coefficients) -> int:
    """The largest degree L of features with (L + 1)^2 rows."""
    return math.isqrt(x.shape[-2]) - 1


def by_row(values: Array | np.ndarray) -> Array | np.ndarray:
    """`[L + 1, ...]` to `[K, ...]`: one entry a degree, repeated for each of its orders."""
    degrees = np.arange(len(values))
    return values[np.repeat(degrees, 2 * degrees + 1)]


def by_degree(x: Array, axis: int = -2) -> list[Array]:
    """The rows of each degree, [2 l + 1] of them along the axis, which has K.

    Split at once, as the derivative of that joins the parts; those of slices would be padded and summed.
    """
    return jnp.split(x, [d * d for d in range(1, math.isqrt(x.shape[axis]))], axis=axis)


class DegreeLinear(nn.Module):
    """`[*items, K, C]` to `[*items, K, features]`: a matrix for each degree, shared by its orders; a bias on degree 0.

    Attributes:
      features: channels that come out.
      bias: whether scalars get one.
      scale: of the initial variance.
    """

    features: int
    bias: bool = True
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Coefficients) -> Coefficients:
        degree = degree_of(x)
        init = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal", batch_axis=0)
        kernel = self.param("kernel", init, (degree + 1, x.shape[-1], self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel)
        parts = [part @ kernel[d] for d, part in enumerate(by_degree(x))]
        if self.bias:
            parts[0] += self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype)
        return jnp.concatenate(parts, axis=-2)


class DegreeNorm(nn.Module):
    """Scalars through a layer norm; all higher degrees over their one root mean square, every degree weighing alike.

    A gain for each degree and channel. Zero where all higher degrees are zero, with finite derivatives.
    """

    @nn.compact
    def __call__(self, x: Coefficients) -> Coefficients:
        degree, channels = degree_of(x), x.shape[-1]
        scalars = nn.LayerNorm(name="scalars")(x[..., :1, :])
        if degree == 0:
            return scalars
        weight = by_row(1 / ((2 * np.arange(degree + 1) + 1) * degree))[1:, None].astype(x.dtype)
        higher = x[..., 1:, :]
        square = jnp.mean(jnp.sum(weight * jnp.square(higher), axis=-2, keepdims=True), axis=-1, keepdims=True)
        gain = self.param("gain", nn.initializers.ones, (degree, channels)).astype(x.dtype)
        rows = by_row(jnp.concatenate([gain[:1], gain]))[1:]
        return jnp.concatenate([scalars, higher / jnp.sqrt(square + 1e-6) * rows], axis=-2)


def gate(x: Float[Array, "*items k c"], gates: Float[Array, "*items c"]) -> Coefficients:
    """A nonlinearity that commutes with rotations: SiLU of scalars, higher degrees times the sigmoid of `gates`."""
    return jnp.concatenate([nn.silu(x[..., :1, :]), x[..., 1:, :] * nn.sigmoid(gates)[..., None, :]], axis=-2)
