"""Quadrature on the sphere: every rule integrates what it claims, and no more."""

import sys

import e3nn_jax as e3nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import lebedev_rule

from equiscale.sphere import designs
from equiscale.sphere.harmonics import harmonics
from equiscale.sphere.rules import KINDS, LEBEDEV, NEGATIVE, rule, sizes

EXACT = [
    *(("e3nn", size) for size in (8, 32, 66, 128, 252, 512)),
    *(("gauss_legendre", size) for size in (2, 15, 45, 66, 128, 253)),
    *(("lebedev", size) for size in (6, 26, 50, 110, 194, 434)),
    *(("design", size) for size in designs.STRENGTHS),
]


def integrals(rule, degree):
    """sum_s w_s Y_k(p_s) up to some degree."""
    return rule.weights @ harmonics(rule.points, degree)


@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_every_offered_size_is_that_of_a_rule_of_unit_points_and_positive_weights(data, kind):
    size = data.draw(st.sampled_from(sizes(kind, most=300)))
    found = rule(kind, size)
    assert (found.name, found.size) == (kind, size) and found.points.shape == (size, 3)
    np.testing.assert_allclose(np.linalg.norm(found.points, axis=1), 1, rtol=1e-15)
    assert (found.weights > 0).all() and found.weights.sum() == pytest.approx(4 * np.pi, rel=1e-14)
    assert len(np.unique(found.points.round(9), axis=0)) == size
    if kind in ("fibonacci", "fibonacci_poles", "design"):
        assert found.is_equal_weighted


@pytest.mark.parametrize("kind, size", EXACT)
def test_harmonics_are_orthonormal_up_to_the_claimed_degree_and_no_further(kind, size):
    found = rule(kind, size)
    y = harmonics(found.points, found.degree // 2)
    np.testing.assert_allclose(y.T @ (found.weights[:, None] * y), np.eye(y.shape[1]), atol=1e-12)
    beyond = integrals(found, found.degree + 1)
    constant, exact, beyond = np.split(beyond, [1, (found.degree + 1) ** 2])
    assert constant[0] == pytest.approx(np.sqrt(4 * np.pi)) and np.abs(exact).max() < 1e-12
    assert np.abs(beyond).max() > 1e-3


@pytest.mark.parametrize("kind", ["fibonacci", "fibonacci_poles"])
def test_lattices_claim_no_degree_for_they_have_none(kind):
    found = rule(kind, 100)
    assert found.degree is None and np.abs(integrals(found, 2)[1:]).max() > 1e-5


def test_only_the_lattice_of_the_released_code_has_both_poles():
    np.testing.assert_allclose(rule("fibonacci_poles", 50).points[[0, -1]], [[0, 0, 1], [0, 0, -1]], atol=1e-15)
    np.testing.assert_allclose(rule("fibonacci", 50).points[[0, -1], 2], [0.98, -0.98])


def test_the_half_offset_makes_the_lattice_converge_faster():
    directions = np.random.default_rng(0).normal(size=(50, 3))
    directions *= 2 / np.linalg.norm(directions, axis=1, keepdims=True)
    integral = 4 * np.pi * np.sinh(2) / 2

    def error(kind, size):
        found = rule(kind, size)
        return np.sqrt(np.mean((np.exp(directions @ found.points.T) @ found.weights - integral) ** 2))

    assert error("fibonacci_poles", 64) / error("fibonacci_poles", 1024) == pytest.approx(16, rel=0.25)  # 1 / S
    assert error("fibonacci", 64) / error("fibonacci", 1024) > 40
    assert error("fibonacci", 1024) < error("fibonacci_poles", 1024) / 10


@pytest.mark.parametrize("b, a", [(4, 8), (6, 11), (12, 21)])
def test_the_soft_grid_is_e3nns(b, a):
    signal = e3nn.SphericalSignal.zeros(b, a, quadrature="soft")
    found = rule("e3nn", b * a)
    np.testing.assert_allclose(found.points, np.reshape(signal.grid_vectors, (-1, 3)), atol=1e-6)
    np.testing.assert_allclose(found.weights, np.repeat(signal.quadrature_weights, a) * (4 * np.pi / a), rtol=1e-6)


def test_designs_are_antipodal_and_their_weyl_sums_vanish():
    for size, strength in designs.STRENGTHS.items():
        points = designs.design(size)
        np.testing.assert_array_equal(points[: size // 2], -points[size // 2 :])
        assert np.abs(designs.weyl_sums(points, strength)).max() < designs.TOLERANCE


def test_the_command_stores_halves_of_designs(tmp_path, monkeypatch):
    monkeypatch.setattr(designs, "STRENGTHS", {6: 3, 32: 7})
    monkeypatch.setattr(sys, "argv", ["designs", f"--output={tmp_path / 'designs.npz'}"])
    designs.main()
    with np.load(tmp_path / "designs.npz") as halves:
        assert sorted(halves) == ["32", "6"]
        octahedron = halves["6"]
    np.testing.assert_allclose(np.abs(octahedron @ octahedron.T), np.eye(3), atol=1e-12)


def test_a_design_that_cannot_be_is_not_made():
    with pytest.raises(RuntimeError, match="no design of 10 points and strength 5"):  # 12 is the least
        designs.solve(10, 5)


def test_lebedev_sizes_degrees_and_signs_are_those_of_scipy():
    for size, degree in LEBEDEV.items():
        if size > 600:
            continue
        points, weights = lebedev_rule(degree)
        assert points.shape == (3, size) and (size in NEGATIVE) == (weights.min() < 0)


@pytest.mark.parametrize("size", NEGATIVE)
def test_negative_weights_are_refused(size):
    assert size not in sizes("lebedev")
    with pytest.raises(ValueError, match=f"lebedev rule of {size} points has negative weights.*nearest sizes are"):
        rule("lebedev", size)


@pytest.mark.parametrize(
    "kind, size, message",
    [
        ("healpix", 48, "kind must be one of fibonacci, .*'healpix'"),
        ("design", 100, "no design rule has 100 points; the nearest sizes are 94 and 128"),
        ("design", 5, "the nearest sizes are 6"),
        ("lebedev", 128, "the nearest sizes are 110 and 146"),
        ("e3nn", 127, "the nearest sizes are 120 and 128"),
        ("gauss_legendre", 127, "the nearest sizes are 126 and 128"),
        ("fibonacci", 0, "no fibonacci rule has 0 points"),
        ("fibonacci_poles", 1, "no fibonacci_poles rule has 1 points; the nearest sizes are 2"),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(kind, size, message):
    with pytest.raises(ValueError, match=message):
        rule(kind, size)
