"""Attention on the sphere: two ways of computing it, its cap, its equivariance by rule and norm, and experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.models import spherical_attention
from equiscale.models.hybrid_experts import HybridExperts
from equiscale.models.spherical_attention import SphericalAttention, logit_spread, spherical_norm, spherical_norm_at
from equiscale.models.spherical_layers import DegreeLinear, DegreeNorm, gate
from equiscale.models.tensor_paths import paths, product
from equiscale.rotations import random_rotation
from equiscale.sphere.errors import equivariance_error
from equiscale.sphere.transform import from_points, sphere_of, to_points, turned
from equiscale.wigner import wigner_d

SPHERE = sphere_of("design", 48, 2)


def features(seed, *lead, degree=2, channels=4):
    return jax.random.normal(jax.random.key(seed), (*lead, (degree + 1) ** 2, channels))


@pytest.mark.parametrize("cap", [None, 0.7])
def test_both_ways_of_attention_agree_where_the_rule_is_exact(x64, cap):
    q, k, v = (features(i) for i in range(3))
    bias = jax.random.normal(jax.random.key(3), (48, 48))
    of_coefficients, spread = spherical_attention._attend_in_coefficients(q, k, v, bias, SPHERE, cap)
    at_points, same = spherical_attention._attend(*(to_points(SPHERE, a) for a in (q, k, v)), bias, SPHERE, cap)
    np.testing.assert_allclose(of_coefficients, at_points, atol=1e-12)
    assert float(spread) == pytest.approx(float(same), rel=1e-12)


def test_the_spread_is_that_of_the_logits_and_the_cap_holds(x64):
    q, k = (to_points(SPHERE, features(i)) for i in range(2))
    logits = q @ k.T
    expected = np.sqrt(np.mean(np.var(logits, axis=1)))
    assert float(logit_spread(q, k, SPHERE)) == pytest.approx(expected, rel=1e-9)
    shrunk = logits * spherical_attention._shrunk(logit_spread(q, k, SPHERE), 0.5)
    assert np.sqrt(np.mean(np.var(shrunk, axis=1))) <= 0.5


def test_norms_of_coefficients_and_of_points_are_one(x64):
    x = features(0, 3)
    np.testing.assert_allclose(to_points(SPHERE, spherical_norm(x)), spherical_norm_at(to_points(SPHERE, x), SPHERE))


def test_fewer_items_at_once_change_nothing():
    x, y = features(0, 3, 2), features(1, 3, 2)
    whole = SphericalAttention(SPHERE)
    params = jax.jit(whole.init)(jax.random.key(0), x, y)
    parts = SphericalAttention(SPHERE, items_at_once=4)

    def value(module):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(module.apply(p, x, y)))))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), value(whole), value(parts))


def error_of(sphere, **fields):
    module = SphericalAttention(sphere, **fields)
    params = jax.jit(module.init)(jax.random.key(0), features(0, 1, channels=32))
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)

    @jax.jit
    def operation(x):
        return from_points(sphere, module.apply(params, x))

    return equivariance_error(operation, degree=2, n=4, rotations=4, key=jax.random.key(1))[0]


PUBLISHED = {"norm": "points", "spread": None}


@pytest.mark.parametrize(
    "rule, inverse, fields, expected",
    [
        ("fibonacci_poles", "columns", PUBLISHED, 8.9e-2),
        ("fibonacci", "weights", PUBLISHED, 1.1e-2),
        ("fibonacci", "least_squares", PUBLISHED, 3.9e-3),
        ("design", "least_squares", PUBLISHED, 1.7e-4),
        ("e3nn", "weights", PUBLISHED, 1.3e-3),
        ("e3nn", "weights", PUBLISHED | {"weighted": False}, 0.36),
        ("design", "least_squares", {}, 1.1e-5),
    ],
)
def test_equivariance_by_rule_and_norm_is_what_was_measured_before(x64, rule, inverse, fields, expected):
    """Degree 2, 128 points, 32 channels, untrained: the specification's table, within a factor of three."""
    found = error_of(sphere_of(rule, 128, 2, inverse), **fields)
    assert expected / 3 < found < 3 * expected


def test_turned_points_are_turned_features(x64):
    """Attention on the points R p of x is what attention on p of D(R)^T x becomes when it is turned along."""
    rotation = random_rotation(jax.random.key(2))
    turn = wigner_d(rotation, 2)
    x = features(0, 2)
    module = SphericalAttention(sphere_of("fibonacci", 20, 2))
    params = jax.jit(module.init)(jax.random.key(0), x)
    on_turned = SphericalAttention(turned(module.sphere, rotation))
    found = from_points(on_turned.sphere, jax.jit(on_turned.apply)(params, x))
    back = jnp.einsum("ji,njc->nic", turn, x)
    expected = jnp.einsum("ij,njc->nic", turn, from_points(module.sphere, jax.jit(module.apply)(params, back)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


LAYERS = {
    "linear": lambda x: DegreeLinear(5).init_with_output(jax.random.key(0), x)[0],
    "norm": lambda x: DegreeNorm().init_with_output(jax.random.key(0), x)[0],
    "gate": lambda x: gate(x, x[..., 0, :]),
    "product": lambda x: product(x, jnp.flip(x, -1), jnp.ones((*x.shape[:-2], len(paths(2)), x.shape[-1]))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_coefficients_commute_with_rotations(x64, name):
    turn = wigner_d(random_rotation(jax.random.key(4)), 2)
    x = features(1, 3)
    found, expected = LAYERS[name](turn @ x), turn @ LAYERS[name](x)
    assert np.std(expected[:, 1:]) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_products_turn_with_both_features(x64):
    """And the path (1, 1, 1) is the cross product, which point-wise products lack."""
    turn = wigner_d(random_rotation(jax.random.key(4)), 2)
    x, y = features(1, 1), features(2, 1)
    weights = jax.random.normal(jax.random.key(5), (1, len(paths(2)), 4))
    np.testing.assert_allclose(product(turn @ x, turn @ y, weights), turn @ product(x, y, weights), atol=1e-6)
    only = jnp.zeros_like(weights).at[:, paths(2).index((1, 1, 1))].set(1.0)
    crossed = product(x, y, only)[0, 1:4]
    cross = np.cross(x[0, 1:4].T, y[0, 1:4].T).T
    size = np.linalg.norm(cross, axis=0) / np.linalg.norm(crossed, axis=0)
    np.testing.assert_allclose(crossed * size, cross * np.sign(np.sum(crossed[:, :1] * cross[:, :1])), atol=1e-6)


def test_shares_of_experts():
    """Top 1 leaves one share; a shared expert counts whatever the gate says; balance is 1 for equal shares."""
    x = features(0, 64, channels=8)
    experts = HybridExperts(SPHERE, n_steerable=3, n_spherical=0, n_shared=1, top_k=1, balance=1.0, bypass=False)
    params = jax.jit(experts.init)(jax.random.key(0), x)["params"]
    shares = experts.apply({"params": params}, x[:, 0], method="shares", mutable=["losses"])[0]
    assert (shares[:, 0] == 1).all() and ((shares[:, 1:] > 0).sum(1) == 1).all()
    even = params | {"gate_out": jax.tree.map(jnp.zeros_like, params["gate_out"])}
    _, sown = experts.apply({"params": even}, x, mutable=["losses"])
    assert float(sown["losses"]["balance"][0]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="top_k=5"):
        HybridExperts(SPHERE, n_steerable=2, n_spherical=2, top_k=5).init(jax.random.key(0), x)


def test_without_norm_and_attention_an_expert_is_a_network_at_each_point():
    x = features(0, 5)
    plain = HybridExperts(SPHERE, n_steerable=0, n_spherical=1, bypass=False, attend=False, norm="none")
    params = jax.jit(plain.init)(jax.random.key(0), x)["params"]
    hidden = to_points(SPHERE, x) @ params["spherical_in"]["kernel"] + params["spherical_in"]["bias"]
    out = (hidden * jax.nn.sigmoid(hidden)) @ params["spherical_out"]["kernel"]
    np.testing.assert_allclose(jax.jit(plain.apply)({"params": params}, x), from_points(SPHERE, out), atol=1e-5)


def test_without_norm_attention_sees_how_large_functions_are():
    """Its logits are a product of two features: four times as spread for features twice as large."""
    x = features(0, 5)
    free = SphericalAttention(SPHERE, norm="none", spread=None)
    params = jax.jit(free.init)(jax.random.key(0), x)["params"]
    spreads = [
        free.apply({"params": params}, a, mutable=["intermediates"])[1]["intermediates"]["logit_spread"][0]
        for a in (x, 2 * x)
    ]
    np.testing.assert_allclose(spreads[1], 4 * spreads[0], rtol=1e-4)
