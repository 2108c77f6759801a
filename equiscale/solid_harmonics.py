"""Real spherical harmonics in JAX, as polynomials, in e3nn's basis and order.

    r^l Y_lm(x / r) = p_lm(y, r^2) Re (z + i x)^m,        with Im and p_l|m| for m < 0,

with the polar axis along y and p_lm the associated Legendre polynomials made homogeneous and orthonormal, from

    p_mm = c_m,    p_lm = a_lm y p_(l-1)m - b_lm r^2 p_(l-2)m.

All orders of a degree are one vector, so that degree L takes a few operations for each degree below. (e3nn_jax derives
its polynomials anew each time it is traced, for half a minute at degree 10 and minutes for a gradient:
`benchmarks.harmonics`.)
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def solid_harmonics(x: Float[Array, "*any 3"], degree: int) -> Float[Array, "*any K"]:
    """r^l Y_lm of each vector for every degree up to `degree`, K = (degree + 1)^2: of unit vectors Y_lm itself.

    Orthonormal on the sphere ("integral" normalisation in e3nn): degree 1 is sqrt(3 / 4 pi) (x, y, z).
    """
    a, b, c = (table.astype(x.dtype) for table in _recurrence(degree))
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    x, y, z = (x[..., i : i + 1] for i in range(3))
    cosines, sines = [jnp.ones_like(z)], [jnp.zeros_like(x)]
    for _ in range(degree):
        last, beside = cosines[-1], sines[-1]
        cosines.append(z * last - x * beside)
        sines.append(x * last + z * beside)
    cosine, sine = jnp.concatenate(cosines, -1), jnp.concatenate(sines, -1)
    before, p = jnp.zeros_like(cosine), jnp.broadcast_to(c[0], cosine.shape)
    found = []
    for n in range(degree + 1):
        if n:
            before, p = p, a[n] * y * p - b[n] * square * before + c[n]
        found += [jnp.flip((p * sine)[..., 1 : n + 1], -1), (p * cosine)[..., : n + 1]]
    return jnp.concatenate(found, -1)


@functools.cache
def _recurrence(degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a_lm, b_lm and, where l = m, c_m: `[degree + 1, degree + 1]` each, zero elsewhere."""
    n, m = np.meshgrid(np.arange(degree + 1.0), np.arange(degree + 1.0), indexing="ij")
    below = n > m
    apart = np.where(below, n**2 - m**2, 1)
    a = np.where(below, np.sqrt(np.abs(4 * n**2 - 1) / apart), 0)
    b = np.where(below, np.sqrt(np.maximum((2 * n + 1) * ((n - 1) ** 2 - m**2), 0) / (np.abs(2 * n - 3) * apart)), 0)
    m = np.arange(1.0, degree + 1)
    steps = np.sqrt((2 * m + 1) / (2 * m)) * np.where(m == 1, np.sqrt(2), 1)  # sqrt(2) for every real pair
    return a, b, np.diag(np.cumprod([np.sqrt(1 / (4 * np.pi)), *steps]))
