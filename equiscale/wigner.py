"""Wigner's matrices: how spherical harmonics turn, in e3nn's basis and order, accurate for small rotations too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale.rotations import HIGHEST
from equiscale.solid_harmonics import solid_harmonics


@partial(jax.jit, static_argnums=1)
def wigner_d(rotation: Float[Array, "*batch 3 3"], degree: int) -> Float[Array, "*batch K K"]:
    """D(R) with Y(R p) = D(R) Y(p), for degrees up to `degree`: block diagonal, a block a degree; R may be improper.

    Computed as D(R) = int Y(R p) Y(p)' dp by an exact rule. Through Euler angles, as in e3nn, a float32 D of a rotation
    by 1e-4 is wrong by as much as that.
    """
    points, weights = (a.astype(rotation.dtype) for a in _exact_rule(2 * degree))
    turned = jnp.einsum("...ij,sj->...si", rotation, points, precision=HIGHEST)
    back = weights[:, None] * solid_harmonics(jnp.asarray(points), degree)
    return jnp.einsum("...sj,sk->...jk", solid_harmonics(turned, degree), back, precision=HIGHEST)


def _exact_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [S, 3] and weights [S], of sum 4 pi, exact for polynomials up to a degree: circles at Gauss's nodes."""
    cosines, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    angle = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    z, angle = (a.ravel() for a in np.meshgrid(cosines, angle, indexing="ij"))
    around = np.sqrt(1 - z**2)
    points = np.stack([around * np.cos(angle), around * np.sin(angle), z], axis=-1)
    return points, np.repeat(weights, degree + 1) * 2 * np.pi / (degree + 1)
