"""How far an operation on spherical-harmonic coefficients is from commuting with rotations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from equiscale.rotations import HIGHEST, random_rotation
from equiscale.wigner import wigner_d


def equivariance_error(
    operation: Callable[[Float[Array, "n K C"]], Float[Array, "n K C"]],
    *,
    degree: int,
    channels: int = 32,
    n: int = 8,
    rotations: int = 8,
    key: Array,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The relative error |D(R) y(x) - y(D(R) x)| / |y(x)| of x -> y over the rows of degree 1 and more.

    Coefficients are normal. Each degree adds the same variance to the signal on the sphere, and their sum is 1: those
    of degree l have variance 4 pi / ((2 l + 1) (L + 1)). The norm is over rows and channels of one item.

    Args:
      operation: maps coefficients of any items to as many rows; rows turn as in `equiscale.sphere.transform`.
      degree: L, 1 or more; K = (L + 1)^2.
      channels: C.
      n: number of items, 2 or more.
      rotations: uniform rotations of each item, its own.
      key: of items and rotations.

    Returns:
      The mean over items and rotations, and its standard error from the means of the items: rotations of one item are
      not independent. Everything is computed in float64 where `jax_enable_x64` is on, otherwise in float32, which
      rounds at about 1e-6.

    Raises:
      ValueError: for degree 0, which has nothing to turn, and for one item, which has no standard error.
    """
    if degree < 1:
        raise ValueError(f"degree must be 1 or more, got {degree}: scalars do not turn")
    if n < 2:
        raise ValueError(f"the standard error needs n of 2 or more items, got {n}")
    coefficients_key, rotations_key = jax.random.split(key)
    orders = np.repeat(2 * np.arange(degree + 1) + 1, 2 * np.arange(degree + 1) + 1)  # 2 l + 1 of every row
    x = jax.random.normal(coefficients_key, (n, len(orders), channels))
    x = x * np.sqrt(4 * np.pi / (orders * (degree + 1)))[:, None].astype(x.dtype)
    y = operation(x)

    def turn(d: Array, x: Array) -> Array:
        return jnp.einsum("njk,nkc->njc", d, x, precision=HIGHEST)

    def norm(y: Array) -> Array:
        return jnp.linalg.norm(y[:, 1:], axis=(1, 2))

    def errors(keys: Array) -> Array:
        d = wigner_d(jax.vmap(random_rotation)(keys), degree)
        return norm(turn(d, y) - operation(turn(d, x))) / norm(y)

    of_item = jax.lax.map(errors, jax.random.split(rotations_key, (rotations, n))).mean(axis=0)
    return of_item.mean(), of_item.std(ddof=1) / jnp.sqrt(n)
