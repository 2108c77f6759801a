import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equiscale as es
from equiscale.rotations import random_rotation
from equiscale.twirl import auto_chunk, draw_elements

MEASURES = [
    es.so3.haar(7),
    es.so3.coset(12),
    es.so3.coset(24, n=3),
    es.so3.quadrature(6),
    es.octahedral.enumerate(),
    es.paper16(),
]


def network(seed=0, width=16):
    """A smooth function of a batch of three points, without any symmetry."""
    a, b = jax.random.split(jax.random.key(seed))
    w, v = 0.4 * jax.random.normal(a, (9, width)), jax.random.normal(b, (width, 9)) / width**0.5
    return lambda x: (jnp.tanh(x.reshape(-1, 9) @ w) @ v).reshape(-1, 3, 3)


def points(n=5, seed=1):
    return jax.random.normal(jax.random.key(seed), (n, 3, 3))


@pytest.mark.parametrize(
    "measure", [es.so3.coset(12), es.so3.coset(60), es.octahedral.enumerate(), es.so3.quadrature(2)], ids=str
)
@given(seed=st.integers(0, 2**31))
def test_twirl_of_a_linear_map_is_its_trace(measure, seed):
    """Schur: the average of R^T W R over the rotations, the 24 or the 60 is tr(W)/3."""
    w = jax.random.normal(jax.random.key(seed), (3, 3))
    sym = es.Symmetry(measure, es.vectors, es.vectors)
    x = jax.random.normal(jax.random.key(seed + 1), (2, 4, 3))
    np.testing.assert_allclose(es.twirl(lambda x: x @ w.T, sym)(jax.random.key(0), x), jnp.trace(w) / 3 * x, atol=3e-6)


@pytest.mark.parametrize("measure", [es.octahedral.enumerate(), es.permutations(3).enumerate()], ids=str)
def test_twirl_over_a_group_is_a_projection_onto_equivariant_functions(measure):
    act = es.vectors if measure.group is es.octahedral else es.permute(0)
    sym = es.Symmetry(measure, act, act)
    f, x, key = network(), points(), jax.random.key(0)
    once = es.symmetrise(f, sym, key)
    for g in measure.draw(key)[0][1:4]:
        turned = jax.vmap(act, (None, 0))(g, x)
        np.testing.assert_allclose(once(turned), jax.vmap(act, (None, 0))(g, once(x)), atol=2e-6)
    np.testing.assert_allclose(es.symmetrise(once, sym, key)(x), once(x), atol=2e-6)


def test_the_average_over_paper16_is_not_equivariant():
    sym = es.Symmetry(es.paper16(), es.vectors, es.vectors)
    once, x = es.symmetrise(network(), sym, jax.random.key(0)), points()
    g = es.octahedral.enumerate().draw(None)[0][5]
    defect = jnp.abs(once(x @ g.T) @ g - once(x)).max()
    assert defect > 1e-3


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_chunks_change_nothing_and_match_numpy(measure):
    sym = es.Symmetry(measure, es.vectors, es.vectors)
    f, x, key = network(), points(), jax.random.key(3)
    elements, weights = draw_elements(measure, key, jnp.arange(len(x)))
    g = np.broadcast_to(
        np.asarray(elements, np.float64)[:, :, None] if measure.deterministic else elements,
        (measure.n_units, measure.unit_size, len(x), 3, 3),
    )
    expected = np.zeros(x.shape)
    for a, k in np.ndindex(*g.shape[:2]):
        turned = np.einsum("nij,naj->nai", g[a, k], x)
        expected += weights[k] / len(g) * np.einsum("nji,naj->nai", g[a, k], f(jnp.asarray(turned, jnp.float32)))
    for chunk in (1, 2, 5, measure.n_elements, None):
        np.testing.assert_allclose(es.twirl(f, sym, chunk=chunk)(key, x), expected, atol=2e-6)


def test_twist_undoes_the_action_and_leaves_equivariant_functions_alone():
    sym = es.Symmetry(es.so3.haar(2), es.vectors, es.vectors)
    g = jax.vmap(random_rotation)(jax.random.split(jax.random.key(0), 5))
    x = points()

    def equivariant(x):
        return x * jnp.linalg.norm(x, axis=-1, keepdims=True)

    np.testing.assert_allclose(es.twist(equivariant, sym)(g, x), equivariant(x), atol=1e-5)
    one = es.twist(network(), sym)(g, x)[2]
    np.testing.assert_allclose(one, network()(x[2:3] @ g[2].T)[0] @ g[2], atol=1e-5)


def test_noise_in_the_input_turns_with_it():
    """What an identity model leaves of x + noise has no equivariance error: the noise is turned, not redrawn."""
    x = points()
    noisy = x + jax.random.normal(jax.random.key(5), x.shape)
    d = es.decompose(
        lambda x: x, es.Symmetry(es.so3.coset(12), es.vectors, es.vectors), noisy, x, key=jax.random.key(0)
    )
    assert d.percent < 1e-9 and d.total > 0.5


def test_an_example_has_the_same_twirl_in_any_batch():
    sym = es.Symmetry(es.so3.coset(12), es.vectors, es.vectors)
    f, x, key = network(), points(6), jax.random.key(0)
    twirled = es.twirl(f, sym)
    whole = twirled(key, x)
    parts = [twirled(key, x[i : i + 2], example_ids=jnp.arange(i, i + 2)) for i in (0, 2, 4)]
    np.testing.assert_allclose(jnp.concatenate(parts), whole, atol=1e-6)


def test_automatic_chunks_divide_and_stay_within_bounds():
    small, large = jnp.zeros((1, 9, 3)), jnp.zeros((4, 8, 32, 32, 32))
    assert auto_chunk(es.so3.coset(24), 1, small) == 24
    assert auto_chunk(es.so3.coset(12, n=7), 8, small) == 4
    assert auto_chunk(es.so3.haar(10), 32, small) == 1
    assert auto_chunk(es.octahedral.enumerate(), 4, large) == 1


def test_f_is_traced_once_however_many_elements():
    calls = []

    def counted(x):
        calls.append(x.shape)
        return jnp.tanh(x)

    for measure, chunk in ((es.so3.haar(10), 1), (es.so3.coset(12, n=3), 4), (es.octahedral.enumerate(), 24)):
        calls.clear()
        sym = es.Symmetry(measure, es.vectors, es.vectors)
        run = jax.jit(lambda key, x, sym=sym, chunk=chunk: es.decompose(counted, sym, x, x, key=key, chunk=chunk))
        run(jax.random.key(0), points())
        run(jax.random.key(1), points(seed=2))
        assert calls == [(5, 3, 3)], f"{measure}, chunk {chunk}: traced {len(calls)} times"


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"so3\.coset"):
        es.Symmetry(measure=es.so3, act_in=es.vectors, act_out=es.vectors)
    sym = es.Symmetry(es.so3.haar(2), es.segmented(es.vectors), es.segmented(es.vectors))
    with pytest.raises(ValueError, match="n_examples"):
        es.twirl(lambda x: x, sym)(jax.random.key(0), points()[0], segments=jnp.zeros(3, int))
