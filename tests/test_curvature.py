"""Curvature against closed forms, autodiff, finite differences, and dense against matrix-free; in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale import curvature, lanczos, landscape
from equiscale.components import PARTS, components
from equiscale.spectrum import Spectrum
from tests.test_gradients import apply, make_params, symmetry

MEASURES = [es.so3.haar(3), es.so3.coset(12, n=2), es.octahedral.enumerate(), es.so3.quadrature(2)]


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[1], (2, 6, 5, 3))
    mask = jnp.arange(5) < jnp.array([5, 4, 3, 5, 2, 1])[:, None]
    settings = {"key": keys[2], "weight": jnp.array([1, 2, 0.5, 1, 0, 3.0]), "mask": mask}
    return make_params(keys[0]), x, y, settings


def decomposed(sym, x, y, rebuild, settings):
    """Each component of `es.decompose` as a function of the chosen parameters."""

    def losses(vector):
        d = es.decompose(lambda x: apply(rebuild(vector), x), sym, x, y, plug_in=True, **settings)
        return {part: getattr(d, part) for part in PARTS}

    return losses


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_losses_gradients_and_products_are_those_of_the_decomposition(case, measure, x64):
    params, x, y, settings = case
    params, x, y, settings = jax.tree.map(
        lambda a: a.astype(float) if jnp.issubdtype(a.dtype, jnp.floating) else a, (params, x, y, settings)
    )
    sym = symmetry(measure)
    c = components(apply, params, sym, x, y, only=["in/*", "out"], **settings)
    losses = decomposed(sym, x, y, lambda v: {"count": params["count"], **nested(c.unravel(v))}, settings)
    wanted, slopes = jax.jit(lambda v: (losses(v), jax.jacrev(losses)(v)))(c.vector)
    directions = jax.random.normal(jax.random.key(1), (2, c.n))
    turns = jax.jit(lambda v: jax.vmap(lambda d: jax.jvp(jax.jacrev(losses), (v,), (d,))[1])(directions))(c.vector)
    got, gradients, products = c.losses(c.vector), c.gradients(c.vector), c.products(c.vector, directions, PARTS)
    for part in PARTS:
        np.testing.assert_allclose(got[part], wanted[part], rtol=1e-12)
        np.testing.assert_allclose(gradients[part], slopes[part], atol=1e-12)
        np.testing.assert_allclose(products[part], turns[part], atol=1e-12)
    np.testing.assert_allclose(products["total"], products["mean"] + products["equiv"], atol=1e-13)


def nested(chosen):
    return {"in": {"w": chosen["in/w"], "b": chosen["in/b"]}, "out": chosen["out"]}


def test_the_frozen_part_is_cut_where_the_chosen_parameters_enter(case):
    params, x, y, settings = case
    sym = symmetry(es.octahedral.enumerate())
    cached, recomputed = (components(apply, params, sym, x, y, only="out", cache=c, **settings) for c in (True, False))
    shapes = {a.shape for a in cached.data.features}
    assert (24, 6, 5, 7) in shapes, "the hidden layer of every turned input is stored"
    assert (24, 6, 5, 3) not in shapes, "the turned inputs are not"
    assert all(a.shape == (24, 3, 3) for a in recomputed.data.features)
    direction = jnp.ones((1, cached.n))
    a, b = (c.products(c.vector, direction) for c in (cached, recomputed))
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, atol=1e-14), a, b)


def test_dense_hessians_are_symmetric_and_agree_with_finite_differences(case):
    params, x, y, settings = case
    c = components(apply, params, symmetry(es.so3.coset(12)), x, y, **settings)
    found = curvature.hessians(c, block=13)  # does not divide 49: the last block overlaps
    assert c.n == 49
    step = 1e-6
    for part, matrix in found.items():
        assert matrix.dtype == np.float64
        np.testing.assert_array_equal(matrix, matrix.T)
        for i in (0, 20, 48):
            moved = [c.gradients(np.asarray(c.vector) + s * step * np.eye(c.n)[i])[part] for s in (1, -1)]
            np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), matrix[i], atol=1e-8)
    with pytest.raises(ValueError, match="limit 10"):
        curvature.hessians(c, limit=10)
    stretched = es.Symmetry(es.so3.haar(4), es.vectors, lambda g, x: 2 * es.vectors(g, x))
    with pytest.raises(ValueError, match="checked=False"):
        components(apply, params, stretched, x, y, **settings)


# --- the force head of EScAIP: closed forms of specs section 4 ---------------------------------------------------


def head(params, x):
    """Per atom, sum over edges of unit vector times (w_k . h), Eq. 14."""
    return jnp.einsum("naek,naeh,kh->nak", x["units"], x["h"], params["w"])


HEAD = es.Symmetry(
    es.so3.quadrature(4), {"units": es.vectors, "h": es.trivial}, es.vectors
)  # the twist is of degree 2, its square of degree 4


@pytest.fixture(scope="module")
def force_head():
    keys = jax.random.split(jax.random.key(3), 4)
    units = jax.random.normal(keys[0], (4, 6, 5, 3))
    x = {"units": units / jnp.linalg.norm(units, axis=-1, keepdims=True), "h": jax.random.normal(keys[1], (4, 6, 5, 4))}
    params = {"w": jax.random.normal(keys[2], (3, 4))}
    y = jax.random.normal(keys[3], (4, 6, 3))
    m = np.einsum("naek,naeh->nakh", np.asarray(x["units"], np.float64), np.asarray(x["h"], np.float64))
    gram = np.einsum("nakh,nakg->hg", m, m) / 24
    return params, x, y, gram


def test_hessians_of_the_force_head_in_closed_form(force_head):
    params, x, y, gram = force_head
    c = components(head, params, HEAD, x, y, key=jax.random.key(0))
    found = curvature.hessians(c, block=5)
    average = np.full((3, 3), 1 / 3)
    np.testing.assert_allclose(found["mean"], 2 / 9 * np.kron(average, gram), atol=1e-7)
    np.testing.assert_allclose(found["equiv"], 2 / 9 * np.kron(np.eye(3) - average, gram), atol=1e-7)
    # Hence equal non-zero spectra, each of equiv's twice, and equal condition numbers.
    mean, equiv = (Spectrum.of(found[part]) for part in ("mean", "equiv"))
    assert (mean.rank, equiv.rank) == (4, 8)
    np.testing.assert_allclose(equiv.eigenvalues[4:], np.repeat(mean.eigenvalues[8:], 2), rtol=1e-6)
    np.testing.assert_allclose(mean.condition_above_noise, equiv.condition_above_noise, rtol=1e-6)
    assert mean.condition_is_noise or mean.smallest_positive > mean.noise


def test_gauss_newton_is_the_hessian_of_a_linear_head(force_head):
    params, x, y, _ = force_head
    c = components(head, params, HEAD, x, y, key=jax.random.key(0))
    found = curvature.hessians(c)
    for part, spectrum in curvature.gauss_newton(c, rows=50).items():  # 72 outputs: a padded second block
        dense = Spectrum.of(found[part])
        np.testing.assert_allclose(spectrum.eigenvalues, dense.eigenvalues, atol=1e-13)
        assert spectrum.rank == dense.rank
        assert spectrum.noise < 1e-10 * dense.noise


def test_singular_values_resolve_what_eigenvalues_cannot():
    scales = np.logspace(0, -12, 6)
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(40, 6)))
    r, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    jacobian = q * scales @ r.T
    squares = Spectrum.of_squares(np.linalg.svd(jacobian, compute_uv=False))
    np.testing.assert_allclose(squares.condition, 1e24, rtol=1e-2)
    assert not squares.condition_is_noise
    direct = Spectrum.of(jacobian.T @ jacobian)
    assert direct.condition_is_noise or direct.condition < 1e20


# --- matrix-free -------------------------------------------------------------------------------------------------


def symmetric(eigenvalues, seed=0):
    n = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return q * eigenvalues @ q.T


def times(matrix, vector):
    return matrix @ vector


def test_extremes_and_density_agree_with_the_dense_spectrum(case):
    params, x, y, settings = case
    c = components(apply, params, symmetry(es.so3.coset(12)), x, y, **settings)
    dense = curvature.hessians(c)
    dense["total"] = dense["mean"] + dense["equiv"]
    for part in PARTS:
        values = np.linalg.eigvalsh(dense[part])
        ends = curvature.extremes(c, part, key=jax.random.key(5), n_steps=40)
        np.testing.assert_allclose(ends.largest, values[-1], rtol=1e-10)
        np.testing.assert_allclose(ends.lowest, values[0], atol=1e-8 * values[-1])
        density = curvature.density(c, part, key=jax.random.key(6), n_probes=64, n_steps=25)
        trace, error = density.trace
        assert abs(trace - values.sum()) < 4 * error + 1e-12
        assert density.effective_rank == pytest.approx(Spectrum.known(values, 1e-16).effective_rank, rel=0.15)


def test_ritz_errors_bound_the_distance_to_an_eigenvalue(x64):
    values = np.concatenate([np.linspace(-1, 1, 60), [3.0, 5.0]])
    matrix = symmetric(values)
    ends = lanczos.extremes(times, 62, key=jax.random.key(0), n_steps=15, data=(matrix,))
    for value, error in ((ends.largest, ends.largest_error), (ends.lowest, ends.lowest_error)):
        assert np.abs(values - value).min() <= error + 1e-12


@pytest.mark.parametrize("values", [[0.0] * 9, [2.0] * 9, [1.0, 1, 1, 5, 5, 0, 0, 0, 0], list(range(9))], ids=str)
def test_an_exhausted_krylov_space_is_restarted(values, x64):
    matrix = symmetric(np.array(values, float))
    found = lanczos.tridiagonalise(times, jnp.ones(9), 20, key=jax.random.key(0), data=(matrix,))
    assert len(found.diagonal) == 9, "no more steps than dimensions"
    np.testing.assert_allclose(found.ritz()[0], np.sort(values), atol=1e-10)


def test_density_is_exact_for_the_moments_of_its_probes(x64):
    values = np.linspace(-1, 4, 30)
    matrix = symmetric(values)
    found = lanczos.density(times, 30, key=jax.random.key(0), n_probes=400, n_steps=3, data=(matrix,))
    for power in range(6):  # 2 * 3 - 1
        mean, error = found.mean_of(lambda x, p=power: x**p)
        assert abs(mean - np.mean(values**power)) < 4 * error + 1e-12
    np.testing.assert_allclose(found.weights.sum(-1), 1)
    assert found.share_above(np.array([-2.0, 10.0])).tolist() == pytest.approx([1, 0])


def test_a_product_that_is_not_finite_is_named():
    with pytest.raises(FloatingPointError, match="step 0"):
        lanczos.tridiagonalise(times, jnp.ones(3), 2, key=jax.random.key(0), data=(jnp.full((3, 3), jnp.nan),))


# --- numbers from eigenvalues ------------------------------------------------------------------------------------


def test_a_condition_number_that_divides_by_rounding_is_called_so():
    singular = Spectrum.of(symmetric(np.array([0, 0, 0, 0, 0, 1e-3, 1.0])))
    assert singular.condition_is_noise or singular.smallest_positive == pytest.approx(1e-3)
    assert singular.rank == 2
    known = Spectrum.known(np.array([1e-18, -1e-18, 1e-3, 1.0]), 2.2e-16)
    assert known.condition == pytest.approx(1e18) and known.condition_is_noise
    assert known.condition_above_noise == pytest.approx(1e3)
    assert known.n_negative == 0
    assert "divides by rounding" in str(known)
    clear = Spectrum.known(np.array([-0.5, 1e-3, 1.0]), 2.2e-16)
    assert not clear.condition_is_noise and clear.n_negative == 1
    assert clear.record()["condition"] == pytest.approx(1e3)


def test_effective_rank_counts_directions():
    assert Spectrum.known(np.ones(7), 1e-16).effective_rank == pytest.approx(7)
    assert Spectrum.known(np.eye(7)[0], 1e-16).effective_rank == pytest.approx(1)
    assert Spectrum.known(np.array([0.0, 1, 2, 4]), 1e-16).quantile_ratio(1 / 3) == pytest.approx(4)
    assert Spectrum.known(np.array([0.0, 0, 0, 4]), 1e-16).quantile_ratio(0.5) == np.inf


# --- planes ------------------------------------------------------------------------------------------------------


def test_planes_of_a_linear_head_are_the_quadratics_of_its_hessians(force_head):
    params, x, y, _ = force_head
    c = components(head, params, HEAD, x, y, key=jax.random.key(0))
    found = curvature.hessians(c)
    u, v = landscape.eigen_axes(*np.linalg.eigh(found["mean"] + found["equiv"]))
    np.testing.assert_allclose([u @ u, v @ v, u @ v], [1, 1, 0], atol=1e-12)
    gradient = c.gradients(c.vector)
    step = landscape.paper_step(0.1, float(np.linalg.norm(gradient["total"])))
    surface = landscape.plane(c, u, v, step, half_width=2)
    start = c.losses(c.vector)
    for part in ("mean", "equiv"):
        for i, a in enumerate(surface.a):
            for j, b in enumerate(surface.b):
                d = a * u + b * v
                wanted = start[part] + gradient[part] @ d + d @ found[part] @ d / 2
                np.testing.assert_allclose(surface.losses[part][i, j], wanted, rtol=1e-9)
    np.testing.assert_allclose(surface.losses["total"], surface.losses["mean"] + surface.losses["equiv"])
