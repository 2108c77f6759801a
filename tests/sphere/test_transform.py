"""Coefficients to points and back: round trips, inverses that coincide, limits, spheres that are turned."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from equiscale.rotations import random_rotation
from equiscale.sphere.harmonics import angles, harmonics, harmonics_and_slopes, unit_vectors
from equiscale.sphere.rules import KINDS, rule, sizes
from equiscale.sphere.transform import from_points, make_sphere, to_points, turned
from equiscale.wigner import wigner_d

INVERSES = ("least_squares", "weights", "columns")
POINTS = Rotation.random(20, rng=np.random.default_rng(0)).as_matrix()[:, 0]


def test_harmonics_are_e3nns(x64):
    irreps = e3nn.Irreps.spherical_harmonics(4)
    sample = jax.jit(lambda points: e3nn.spherical_harmonics(irreps, points, True, normalization="integral").array)
    np.testing.assert_allclose(harmonics(POINTS, 4), sample(POINTS), atol=1e-13)


def test_slopes_of_harmonics_are_derivatives_by_the_angles():
    polar, azimuth = angles(POINTS)
    np.testing.assert_allclose(unit_vectors(polar, azimuth), POINTS, atol=1e-15)
    y, slopes = harmonics_and_slopes(polar, azimuth, 4)
    np.testing.assert_allclose(y, harmonics(POINTS, 4), atol=1e-14)
    step = 1e-5
    for axis, (p, a) in enumerate([(step, 0), (0, step)]):
        ends = [harmonics(unit_vectors(polar + sign * p, azimuth + sign * a), 4) for sign in (1, -1)]
        np.testing.assert_allclose(slopes[:, axis], (ends[0] - ends[1]) / (2 * step), atol=1e-8)


@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), degree=st.integers(0, 4))
def test_least_squares_inverts_on_any_points_that_tell_the_harmonics_apart(data, kind, degree):
    fitting = [size for size in sizes(kind, most=200) if size > 3 * (degree + 1) ** 2]
    sphere = make_sphere(rule(kind, data.draw(st.sampled_from(fitting))), degree)
    np.testing.assert_allclose(sphere.from_points @ sphere.to_points, np.eye((degree + 1) ** 2), atol=1e-12)


@pytest.mark.parametrize("kind, size", [("e3nn", 66), ("gauss_legendre", 15), ("lebedev", 14), ("design", 12)])
def test_rules_exact_to_twice_the_degree_need_no_least_squares(kind, size):
    fits, weights = (make_sphere(rule(kind, size), 2, inverse) for inverse in ("least_squares", "weights"))
    np.testing.assert_allclose(fits.from_points, weights.from_points, atol=1e-12)


def test_normalised_columns_mend_the_diagonal_only():
    sphere = make_sphere(rule("fibonacci_poles", 60), 2, "columns")
    round_trip = sphere.from_points @ sphere.to_points
    np.testing.assert_allclose(np.diag(round_trip), 1, rtol=1e-14)
    assert np.abs(round_trip - np.eye(9)).max() > 0.01
    even = make_sphere(rule("design", 64), 2, "columns")
    np.testing.assert_allclose(even.from_points, 4 * np.pi / 64 * even.to_points.T, atol=1e-12)


@pytest.mark.parametrize("kind, size", [("design", 32), ("lebedev", 50), ("e3nn", 32)])
def test_log_weights_turn_a_softmax_over_points_into_the_mean_over_the_sphere(kind, size):
    found = rule(kind, size)
    sphere = make_sphere(found, 1)
    np.testing.assert_allclose(jax.nn.softmax(sphere.log_weights), found.weights / (4 * np.pi), rtol=1e-5)
    assert sphere.log_weights.any() != found.is_equal_weighted


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_transforms_keep_the_dtype_and_go_there_and_back(dtype):
    sphere = make_sphere(rule("design", 32), 2)
    x = jax.random.normal(jax.random.key(0), (2, 3, 9, 4), dtype)
    f = to_points(sphere, x)
    assert f.shape == (2, 3, 32, 4) and f.dtype == dtype
    back = from_points(sphere, f)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, x, atol=0.1 if dtype == jnp.bfloat16 else 1e-5)


@pytest.mark.parametrize("points", [32, 10])
def test_other_numbers_of_rows_are_refused(points):
    sphere = make_sphere(rule("fibonacci", 32), 2)
    with pytest.raises(ValueError, match=r"takes coefficients \[..., K, C\] with 9 rows"):
        to_points(sphere, jnp.ones((points, 4)))
    with pytest.raises(ValueError, match=r"takes a signal \[..., S, C\] with 32 rows, got shape \[32\]"):
        from_points(sphere, jnp.ones(32))


@pytest.mark.parametrize(
    "kind, size, degree, inverse, message",
    [
        ("fibonacci", 8, 2, "least_squares", r"\(L \+ 1\)\^2 = 9 up to degree L = 2; the smallest .* has 9 points"),
        ("design", 6, 2, "columns", "tells 6 harmonics apart.* that will do has 12 points"),
        ("e3nn", 32, 4, "least_squares", "tells 23 harmonics apart, and there are .* = 25.* has 54 points"),
        (
            "design",
            32,
            4,
            "weights",
            "exact to degree 7, .* degree 4 by weights needs 8; the smallest .* has 48 points",
        ),
        ("lebedev", 50, 6, "weights", "exact to degree 11, .* needs 12; the smallest lebedev .* has 86 points"),
        ("design", 512, 16, "weights", "needs 32; no design rule will do; use another kind"),
        ("design", 32, -1, "weights", "degree must be 0 or more, got -1"),
        ("design", 32, 2, "pinv", "inverse must be .* got 'pinv'"),
    ],
)
def test_spheres_too_coarse_are_refused_with_the_smallest_that_is_not(kind, size, degree, inverse, message):
    with pytest.raises(ValueError, match=message):
        make_sphere(rule(kind, size), degree, inverse)


def test_negative_weights_are_refused():
    found = rule("design", 6)
    with pytest.raises(ValueError, match="weights of a rule must be positive, got -1 in design"):
        make_sphere(found._replace(weights=-np.ones(6)), 1)


def test_wigner_d_is_e3nns_and_holds_for_reflections(x64):
    rotation = random_rotation(jax.random.key(0))
    expected = jax.jit(e3nn.Irreps.spherical_harmonics(3).D_from_matrix)
    for r in (rotation, -rotation):
        d = wigner_d(r, 3)
        np.testing.assert_allclose(d, expected(r), atol=1e-13)
        np.testing.assert_allclose(harmonics(POINTS @ r.T, 3), harmonics(POINTS, 3) @ d.T, atol=1e-13)


def test_wigner_d_is_accurate_in_float32_next_to_the_identity():
    rotations = Rotation.from_rotvec([[10.0**-n, 0, 0] for n in range(6)]).as_matrix()
    expected = np.stack([harmonics(POINTS @ r.T, 4) for r in rotations])
    found = harmonics(POINTS, 4) @ wigner_d(jnp.asarray(rotations, jnp.float32), 4).mT
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("kind, size", [("e3nn", 66), ("fibonacci", 40)])
@pytest.mark.parametrize("inverse", ["least_squares", "weights"])
def test_a_turned_sphere_is_that_of_turned_points(x64, kind, size, inverse):
    found = rule(kind, size)
    rotation = np.asarray(random_rotation(jax.random.key(1)))
    sphere = turned(make_sphere(found, 2, inverse), jnp.asarray(rotation))
    expected = make_sphere(found._replace(points=found.points @ rotation.T), 2, inverse)
    for a, b in zip(jax.tree.leaves(sphere), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


@pytest.mark.parametrize("inverse", INVERSES)
def test_turning_the_sphere_is_turning_the_input_back_and_the_output_along(x64, inverse):
    sphere = make_sphere(rule("fibonacci_poles", 20), 2, inverse)
    rotation = random_rotation(jax.random.key(4))
    d = wigner_d(rotation, 2)
    x = jax.random.normal(jax.random.key(5), (9, 2))

    def square(sphere, x):
        return from_points(sphere, to_points(sphere, x) ** 2)

    found = square(turned(sphere, rotation), x)
    np.testing.assert_allclose(found, d @ square(sphere, d.T @ x), atol=1e-12)
    assert np.abs(found - square(sphere, x)).max() > 0.1


def test_spheres_turn_one_per_molecule():
    sphere = make_sphere(rule("fibonacci", 16), 2)
    keys = jax.random.split(jax.random.key(2), 3)
    rotations = jax.vmap(random_rotation)(keys)
    x = jax.random.normal(jax.random.key(3), (3, 9, 2))
    together = to_points(turned(sphere, rotations), x)
    mapped = jax.vmap(lambda r, x: to_points(turned(sphere, r), x))(rotations, x)
    alone = jnp.stack([to_points(turned(sphere, r), x) for r, x in zip(rotations, x, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(mapped, alone, atol=1e-5)
