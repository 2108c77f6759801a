"""The propositions on landscapes whose constants are known, and over a run of gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale import propositions
from equiscale.gradients import gradients
from equiscale.propositions import Run


def quadratic_run(scale, points=20, seed=0):
    """L_mean = |a|^2 / 2 and L_equiv = scale |b|^2 / 2 in separate parameters: M = scale, c = 2, alpha = 1."""
    a, b = np.abs(np.random.default_rng(seed).normal(size=(2, points))) + 0.1
    return Run(a**2 / 2, scale * b**2 / 2, a, scale * b, np.zeros(points))


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_constants_of_quadratics_are_recovered(scale):
    run = quadratic_run(scale)
    assert propositions.smoothness(run.equiv, run.gradient_equiv) == pytest.approx(scale)
    c, alpha = propositions.fit_lojasiewicz(run.mean, run.gradient_mean)
    assert (c, alpha) == (pytest.approx(2), pytest.approx(1))
    found = propositions.bounded(run)
    assert found.constants["M_equiv"] == pytest.approx(scale)
    # Here Eq. 13 is an equality: |grad equiv| = sqrt(2 M equiv), |grad mean| = sqrt(c mean).
    np.testing.assert_allclose(found.by_proposition_3, found.purity)
    assert (found.purity <= found.by_proposition_2 * (1 + 1e-12)).all()


def test_the_exponent_stays_within_what_the_theorem_allows():
    x = np.logspace(-3, 0, 10)
    assert propositions.fit_lojasiewicz(x, x**0.2)[1] == 1  # slope 0.4
    assert propositions.fit_lojasiewicz(x, x**1.5)[1] < 2  # slope 3
    assert propositions.fit_lojasiewicz(x, 3 * x**0.75) == (pytest.approx(9), pytest.approx(1.5))
    with pytest.raises(ValueError, match="2 points"):
        propositions.fit_lojasiewicz(x[:1], x[:1])


def test_secants_find_the_curvature_of_a_quadratic():
    points = np.random.default_rng(0).normal(size=(6, 3))
    assert propositions.secant_smoothness(points * 4.0, points) == pytest.approx(4)


def test_the_gradient_of_the_ratio_and_both_bounds_over_a_descent():
    """Every number of a `Run` against autodiff, and the bounds at points the constants were not taken from."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (8, 4, 3))
    y = x * jnp.linalg.norm(x, axis=-1, keepdims=True)
    sym = es.Symmetry(es.so3.coset(12), es.vectors, es.vectors)
    shape = {"a": (3, 8), "b": (8, 3)}
    params = {name: jax.random.normal(k, s) / 2 for k, (name, s) in zip(keys[1:], shape.items(), strict=False)}

    def apply(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    measure = jax.jit(lambda p: gradients(apply, p, sym, x, y, key=keys[3]))

    @jax.jit
    def slope_of_ratio(p):
        def ratio(p):
            d = es.decompose(lambda x: apply(p, x), sym, x, y, key=keys[3])
            return d.equiv / d.mean

        return jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(ratio)(p))))

    rows, slopes = [], []
    for _ in range(12):
        found = measure(params)
        rows.append(found.record())
        slopes.append(slope_of_ratio(params))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, found.total)
    run = Run.of(rows)
    np.testing.assert_allclose(run.gradient_ratio, slopes, rtol=2e-3)
    np.testing.assert_allclose(run.purity, [row["gradient_purity"] for row in rows], rtol=1e-6)
    found = propositions.bounded(run)
    assert (found.purity <= found.by_proposition_2 * (1 + 1e-9)).all()
    assert (found.purity <= found.by_proposition_3 * (1 + 1e-9)).all()
    assert -1 <= propositions.log_log_correlation(run) <= 1
    with pytest.raises(ValueError, match="gradient norms"):
        Run.of([{"step": 0}])


def test_correlation_is_one_for_a_power_law():
    ratio = np.logspace(-3, 0, 9)
    run = Run(np.ones(9), ratio, np.ones(9), ratio**0.5, np.zeros(9))
    assert propositions.log_log_correlation(run) == pytest.approx(1)
    assert np.isnan(propositions.log_log_correlation(Run(*(a[:2] for a in run))))
