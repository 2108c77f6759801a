"""The matrix-Fisher distribution on SO(3) and its mean.

    p(R) = exp(tr F^T R) / c(F)

is what noisy positions tell of a rotation that was uniform before (`equiscale.rotation_posterior`).

With the proper singular value decomposition F = U diag(s) V^T (U, V rotations, s_1 >= s_2 >= |s_3|), the mean is
U diag(d) V^T with d_i = d log c / d s_i, and c is an integral over one variable (T. Lee, IEEE Transactions on Automatic
Control 2018, 63, 3377, Eq. 12).
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float

NODES = 96  # of the integral
DECADES = 40.0  # exp(-40) of the integrand is rounding


def mean_rotation(f: Float[Array, "*any 3 3"]) -> Float[Array, "*any 3 3"]:
    """E[R] under p(R) ~ exp(tr F^T R): 0 for F = 0, the nearest rotation to F where that is large.

    In float32 right to 5e-6 at any size of F. For targets and floors: gradients through it are those of a singular
    value decomposition, which fail where singular values coincide.
    """
    u, s, vt = proper_svd(f)
    return jnp.einsum("...ik,...k,...kj->...ij", u, mean_values(s), vt, precision="highest")


def proper_svd(f: Float[Array, "*any 3 3"]) -> tuple[Array, Array, Array]:
    """(U, s, V^T) with U and V rotations: s_1 >= s_2 >= |s_3|, the last with the sign of F's determinant."""
    u, s, vt = jnp.linalg.svd(f)
    of_u, of_v = jnp.linalg.det(u), jnp.linalg.det(vt)
    last = jnp.array([0, 0, 1], bool)
    u = jnp.where(last, u * of_u[..., None, None], u)
    vt = jnp.where(last[:, None], vt * of_v[..., None, None], vt)
    return u, jnp.where(last, s * (of_u * of_v)[..., None], s), vt


def log_normaliser(s: Float[Array, "*any 3"]) -> Float[Array, "*any"]:
    """log c for proper singular values: the logarithm of the mean of exp(tr F^T R) over uniform rotations."""
    integrand, *_ = _integrand(s)
    return jnp.sum(s, axis=-1) + jnp.log(jnp.sum(integrand, axis=-1) / 2)


def mean_values(s: Float[Array, "*any 3"]) -> Float[Array, "*any 3"]:
    """d log c / d s: the singular values of the mean."""
    return 1 - short_values(s)


def short_values(s: Float[Array, "*any 3"]) -> Float[Array, "*any 3"]:
    """What the mean's singular values are short of 1, to all digits however small."""
    integrand, w, of_difference, of_sum = _integrand(s)
    first, second = w * of_difference / 2, (2 - w) * of_sum / 2
    short = jnp.stack([first + second, w - first + second, w], axis=-2)
    return jnp.sum(integrand[..., None, :] * short, axis=-1) / jnp.sum(integrand, axis=-1, keepdims=True)


def _integrand(s: Float[Array, "*any 3"]) -> tuple[Array, ...]:
    """Of 2 c exp(-s_1 - s_2 - s_3), an integral over w = 1 - u of Lee's u from 0 to 2, with weights, `[*any, NODES]`:

        exp(-(s_2 + s_3) w) I(w (s_1 - s_2) / 2) I((2 - w) (s_1 + s_2) / 2)

    with I the modified Bessel function of order 0 without its exponential growth. Then w, and what the ratios of
    Bessel functions of order 1 and 0 are short of 1. By Gauss-Legendre in an angle, dense at both ends of the range,
    where it is not flat.
    """
    node, weight = np.polynomial.legendre.leggauss(NODES)
    angle = jnp.asarray(np.pi / 2 * (1 + node), s.dtype)
    s1, s2, s3 = jnp.moveaxis(s[..., None], -2, 0)
    reach = jnp.minimum(2.0, DECADES / jnp.maximum(s2 + s3, DECADES / 2))
    w = reach * jnp.square(jnp.sin(angle / 2))
    a, b = w * (s1 - s2) / 2, (2 - w) * (s1 + s2) / 2
    measure = jnp.asarray(np.pi / 2 * weight, s.dtype) * reach * jnp.sin(angle) / 2
    integrand = measure * jnp.exp(-(s2 + s3) * w) * i0e(a) * i0e(b)
    return integrand, w, _below_one(a), _below_one(b)


def _below_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 - I_1(x) / I_0(x), which for large x is its series: the difference would lose its digits."""
    y = 1 / jnp.maximum(x, 1.0)
    series = y / 2 + y**2 / 8 + y**3 / 8 + 25 * y**4 / 128
    return jnp.where(x > 100, series, 1 - i1e(x) / i0e(x))
