"""Measured equivariance errors: zero, whole, and those that a point-wise SiLU has on each set of points."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.sphere.errors import equivariance_error
from equiscale.sphere.rules import rule
from equiscale.sphere.transform import from_points, make_sphere, to_points

# Errors of SiLU between the transforms at 32 channels, by degree.
MEASURED = [
    (2, "fibonacci_poles", 128, "weights", 3e-2),
    (2, "fibonacci", 128, "weights", 5e-3),
    (2, "fibonacci", 128, "least_squares", 1.7e-3),
    (2, "e3nn", 128, "weights", 3e-4),
    (2, "gauss_legendre", 128, "weights", 4e-5),
    (2, "lebedev", 110, "weights", 2e-5),
    (2, "design", 128, "weights", 2e-5),
    (2, "design", 256, "weights", 3e-7),
    (4, "fibonacci_poles", 256, "weights", 3e-2),
    (4, "fibonacci", 256, "weights", 5e-3),
    (4, "design", 256, "weights", 1.3e-4),
]


@partial(jax.jit, static_argnums=1)
def silu_error(sphere, degree, key):
    def operation(x):
        return from_points(sphere, jax.nn.silu(to_points(sphere, x)))

    return equivariance_error(operation, degree=degree, key=key)


@pytest.mark.parametrize("degree, kind, size, inverse, expected", MEASURED)
def test_silu_on_the_points_of_every_rule(x64, degree, kind, size, inverse, expected):
    sphere = make_sphere(rule(kind, size), degree, inverse)
    mean, stderr = silu_error(sphere, degree, jax.random.key(0))
    assert expected / 2 < mean < expected * 2 and 0 < stderr < mean / 3


def test_what_commutes_with_rotations_has_no_error(x64):
    def by_degree(x):
        return x * np.repeat([1, -2, 3], [1, 3, 5])[:, None]

    mean, _ = equivariance_error(by_degree, degree=2, channels=3, key=jax.random.key(0))
    assert mean.dtype == jnp.float64 and mean < 1e-14


def test_what_picks_a_direction_has_a_large_one_and_its_standard_error_is_that_of_draws():
    def pick(x):
        return x.at[..., 2, :].set(0)

    keys = jax.random.split(jax.random.key(1), 40)
    error = jax.jit(lambda key: equivariance_error(pick, degree=1, channels=2, n=6, rotations=3, key=key))
    means, stderrs = jnp.array([error(key) for key in keys]).T
    assert 0.3 < means.mean() < 1.5
    assert jnp.sqrt(jnp.square(stderrs).mean()) == pytest.approx(float(means.std(ddof=1)), rel=0.4)


@pytest.mark.parametrize(
    "settings, message", [({"degree": 0}, "degree must be 1"), ({"degree": 1, "n": 1}, "2 or more")]
)
def test_settings_that_measure_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        equivariance_error(lambda x: x, key=jax.random.key(0), **settings)
