"""Solid harmonics against SciPy's and e3nn's, and by what defines them: harmonic, homogeneous and orthonormal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.solid_harmonics import solid_harmonics
from equiscale.sphere.harmonics import harmonics
from equiscale.wigner import _exact_rule

VECTORS = np.random.default_rng(0).normal(size=(20, 3))
UNITS = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 12])
def test_on_the_sphere_they_are_the_spherical_harmonics(degree, x64):
    np.testing.assert_allclose(solid_harmonics(jnp.asarray(UNITS), degree), harmonics(UNITS, degree), atol=1e-13)
    points, weights = _exact_rule(2 * degree)
    y = np.asarray(solid_harmonics(jnp.asarray(points), degree))
    np.testing.assert_allclose(y.T * weights @ y, np.eye((degree + 1) ** 2), atol=1e-12)


def test_rounding_in_float32_grows_slowly_with_the_degree():
    found = solid_harmonics(jnp.asarray(UNITS, jnp.float32), 12)
    assert found.dtype == jnp.float32 and np.abs(found - harmonics(UNITS, 12)).max() < 1e-5


@pytest.mark.parametrize("degree", [1, 3, 6])
def test_each_is_a_homogeneous_polynomial_that_laplace_maps_to_zero(degree, x64):
    x = jnp.asarray(VECTORS)
    of = np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)
    np.testing.assert_allclose(solid_harmonics(-2 * x, degree), (-2.0) ** of * solid_harmonics(x, degree), rtol=1e-12)
    second = jax.vmap(jax.hessian(lambda v: solid_harmonics(v, degree)))(x)
    np.testing.assert_allclose(jnp.trace(second, axis1=-2, axis2=-1), 0, atol=1e-9 * np.abs(second).max())


def test_they_and_their_slopes_are_e3nns_at_the_origin_too(x64):
    import e3nn_jax as e3nn

    irreps = e3nn.Irreps.spherical_harmonics(3)
    x = jnp.asarray(np.concatenate([VECTORS, np.zeros((1, 3))]))

    def theirs(x):
        return e3nn.spherical_harmonics(irreps, e3nn.IrrepsArray("1o", x), False, normalization="integral").array

    np.testing.assert_allclose(solid_harmonics(x, 3), theirs(x), atol=1e-12)
    slopes = [jax.vmap(jax.jacobian(f))(x) for f in (lambda v: solid_harmonics(v, 3), theirs)]
    np.testing.assert_allclose(*slopes, atol=1e-12)
