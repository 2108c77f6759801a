import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equiscale as es
from equiscale import rotations
from equiscale.groups import Group
from equiscale.measures import Measure

FINITE = {
    "half_turns": (rotations.half_turns, 4),
    "tetrahedral": (rotations.tetrahedral, 12),
    "cube": (rotations.cube, 24),
    "icosahedral": (rotations.icosahedral, 60),
}
ROTATION_MEASURES = [
    es.so3.haar(3),
    es.so3.coset(12),
    es.so3.coset(60, n=2),
    es.so3.quadrature(7),
    es.o3.haar(3),
    es.o3.coset(48),
    es.o3.quadrature(4),
    es.octahedral.enumerate(),
    es.full_octahedral.enumerate(),
    es.paper16(),
]


def elements(measure: Measure, seed: int = 0) -> np.ndarray:
    """All elements of one draw in a row, and their weights."""
    drawn = measure.draw(jax.random.key(seed))
    return np.asarray(drawn).reshape(-1, *drawn.shape[2:])


def weights(measure: Measure) -> np.ndarray:
    unit = np.full(measure.unit_size, 1 / measure.unit_size) if measure.weights is None else measure.weights
    return np.tile(unit, measure.n_units) / measure.n_units


@pytest.mark.parametrize("name", FINITE)
def test_finite_rotation_tables_are_groups(name):
    table, order = FINITE[name]
    group = table()
    assert group.shape == (order, 3, 3)
    np.testing.assert_allclose(group @ group.transpose(0, 2, 1), np.tile(np.eye(3), (order, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(group), 1)
    products = np.einsum("aij,bjk->abik", group, group).reshape(-1, 9)
    distance = np.abs(products[:, None] - group.reshape(order, 9)).max(-1)
    assert (distance.min(1) < 1e-9).all(), "closed under multiplication"
    assert (np.sort(distance, 1)[:, 1] > 0.1).all(), "no element twice"


def test_paper16_is_no_group_but_generates_the_cube():
    sixteen = {tuple(g.ravel().astype(int)) for g in rotations.paper16()}
    assert len(sixteen) == 16
    products = {tuple((a @ b).ravel().astype(int)) for a in rotations.paper16() for b in rotations.paper16()}
    assert len(products) == 24, "not closed: its products are all the cube's rotations"


@pytest.mark.parametrize("measure", ROTATION_MEASURES, ids=str)
def test_elements_are_orthogonal_and_counted(measure):
    g = elements(measure)
    assert len(g) == measure.n_elements == len(weights(measure))
    np.testing.assert_allclose(g @ g.transpose(0, 2, 1), np.tile(np.eye(3), (len(g), 1, 1)), atol=1e-6)
    proper = measure.group.name in ("so3", "octahedral")
    assert (np.linalg.det(g) > 0).all() == proper or measure.name == "o3.haar(3)"
    np.testing.assert_allclose(weights(measure).sum(), 1, rtol=1e-12)


def moments(g: np.ndarray, w: np.ndarray, degree: int) -> np.ndarray:
    """The weighted mean of all monomials of that degree in the matrix entries."""
    entries = g.reshape(len(g), 9)
    power = np.ones((len(g), 1))
    for _ in range(degree):
        power = np.einsum("ka,kb->kab", power, entries).reshape(len(g), -1)
    return w @ power


@pytest.mark.parametrize("degree", range(1, 6))
def test_quadratures_and_groups_integrate_up_to_their_degree(degree):
    """Against a product quadrature two degrees higher; monomials of degree d are spanned by Wigner D up to d."""
    exact = moments(*rotations.nodes(degree + 6), degree)
    for reach, table in zip((1, 2, 3, 5), (table for table, _ in FINITE.values()), strict=True):
        group = table()
        error = np.abs(moments(group, np.full(len(group), 1 / len(group)), degree) - exact).max()
        assert (error < 1e-12) == (degree <= reach), f"{len(group)} rotations at degree {degree}: {error}"


@pytest.mark.parametrize("degree", [0, 1, 4, 7])
def test_quadrature_kills_every_wigner_function_up_to_its_degree(degree):
    import e3nn_jax

    nodes, w = rotations.nodes(degree)
    np.testing.assert_allclose(w.sum(), 1)
    for ell in range(1, degree + 1):
        d = jax.jit(e3nn_jax.Irrep(ell, 1).D_from_matrix)(jnp.asarray(nodes, jnp.float32))
        np.testing.assert_allclose(np.einsum("k,kij->ij", w, d), 0, atol=3e-6)


def test_haar_rotations_have_haar_moments():
    """E[R_ij R_kl] = delta_ik delta_jl / 3, to four standard errors of 20,000 draws."""
    g = elements(es.so3.haar(20_000))
    second = moments(g, np.full(len(g), 1 / len(g)), 2).reshape(9, 9)
    np.testing.assert_allclose(second, np.eye(9) / 3, atol=4 * 0.5 / np.sqrt(len(g)))
    both = np.linalg.det(elements(es.o3.haar(2_000)))
    assert abs((both > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(2_000)


@given(st.integers(0, 2**31), st.sampled_from([4, 12, 24, 60]))
def test_a_coset_is_its_subgroup_times_one_rotation(seed, order):
    coset = elements(es.so3.coset(order), seed)
    subgroup = dict(es.so3.subgroups)[order]()
    np.testing.assert_allclose(coset @ coset[0].T @ subgroup[0], subgroup, atol=1e-5)


def test_examples_draw_independently_and_deterministically():
    from equiscale.twirl import draw_elements

    ids = jnp.arange(4)
    g, _ = draw_elements(es.so3.coset(12, n=2), jax.random.key(0), ids)
    again, _ = draw_elements(es.so3.coset(12, n=2), jax.random.key(0), ids[::-1])
    assert g.shape == (2, 12, 4, 3, 3)
    np.testing.assert_array_equal(g, again[:, :, ::-1])
    assert not np.allclose(g[:, :, 0], g[:, :, 1])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_permutations_form_their_group(n):
    group = es.permutations(n)
    listed = elements(group.enumerate())
    assert len(listed) == len({tuple(p) for p in listed}) == len(list(itertools.permutations(range(n))))
    p, q = jnp.asarray(listed[-1]), jnp.asarray(listed[len(listed) // 2])
    np.testing.assert_array_equal(group.multiply(p, group.inverse(p)), np.arange(n))
    np.testing.assert_array_equal(group.multiply(p, q)[0], p[q[0]])
    assert es.permutations(20).haar(4).draw(jax.random.key(0)).shape == (4, 1, 20)


def test_products_pair_units_and_combine_inside_them():
    both = es.product(es.so3.haar(10), es.octahedral.enumerate())
    assert (both.n_units, both.unit_size, both.deterministic) == (10, 24, False)
    r, h = both.draw(jax.random.key(0))
    assert r.shape == h.shape == (10, 24, 3, 3)
    assert np.allclose(r[:, :1], r) and not np.allclose(r[0], r[1])

    listed = es.product(es.octahedral.enumerate(), es.permutations(3).enumerate(), es.so3.quadrature(6))
    assert listed.deterministic and listed.n_elements == 24 * 6 * (7 * 7 * 4)
    np.testing.assert_allclose(listed.weights.sum(), 1)
    g, p, _ = listed.draw(jax.random.key(0))
    pairs = {(*np.rint(a).astype(int).ravel(), *b) for a, b in zip(np.asarray(g[0]), np.asarray(p[0]), strict=True)}
    assert len(pairs) == 24 * 6, "every combination occurs"


def test_a_measure_is_known_by_its_name():
    assert es.so3.coset(60) == es.so3.coset(60) != es.so3.coset(60, n=2)
    assert hash(es.so3.haar(10)) == hash(es.so3.haar(10))
    assert str(es.product(es.so3.haar(2), es.translations.normal(2, 1.5))) == (
        "product(so3.haar(2), translations.normal(2, sigma=1.5))"
    )


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: es.so3.enumerate(), "cannot be enumerated"),
        (lambda: es.so3.coset(13), "12, 24, 60"),
        (lambda: es.octahedral.coset(12), "none"),
        (lambda: es.octahedral.quadrature(3), "no quadrature"),
        (lambda: es.so3.quadrature(-1), "-1"),
        (lambda: es.so3.haar(0), "at least 1, got 0"),
        (lambda: es.permutations(8).enumerate(), "haar"),
        (lambda: es.translations.haar(3), "no uniform probability"),
        (lambda: es.product(es.so3.haar(2), es.o3.haar(3)), "so3.haar"),
        (lambda: es.product(es.so3.haar(2)), "at least two"),
    ],
)
def test_what_a_group_cannot_do_is_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_group_is_plain_operations():
    """A user's own group: the cyclic group of order 5 acting on a plane."""
    turn = 2 * np.pi / 5
    table = np.array([[[np.cos(k * turn), -np.sin(k * turn)], [np.sin(k * turn), np.cos(k * turn)]] for k in range(5)])
    c5 = Group("c5", jnp.matmul, jnp.transpose, elements=lambda: table)
    sym = es.Symmetry(c5.enumerate(), lambda g, x: g @ x, lambda g, x: g @ x)
    w = np.array([[1.0, 2.0], [3.0, 4.0]])
    mu = es.twirl(lambda x: x @ w.T, sym)(jax.random.key(0), jnp.eye(2))
    # the commutant of rotations of the plane: a I + b J with a = tr W / 2, b = (W_21 - W_12) / 2
    np.testing.assert_allclose(mu.T, [[2.5, -0.5], [0.5, 2.5]], atol=1e-6)
