"""Gradients of the components: Eq. 10, exactness against autodiff of the decomposition itself, every execution mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.gradients import gradients

PARTS = ("total", "mean", "equiv")
MEASURES = [
    es.so3.haar(4),
    es.so3.coset(12),
    es.so3.coset(12, n=2),
    es.octahedral.enumerate(),
    es.so3.quadrature(2),
]


def apply(params, x):
    """A plain function of a dict of arrays; the counter is not a parameter."""
    h = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"])
    return h @ params["out"] + params["count"] * 0


def make_params(key, width=7):
    keys = jax.random.split(key, 3)
    return {
        "in": {"w": jax.random.normal(keys[0], (3, width)), "b": jax.random.normal(keys[1], (width,))},
        "out": jax.random.normal(keys[2], (width, 3)),
        "count": jnp.array(3),  # not a parameter: passed on untouched
    }


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[1], (2, 6, 5, 3))
    return make_params(keys[0]), x, y, keys[2]


def measured(params, sym, x, y, apply=apply, **settings):
    return jax.jit(lambda p, x, y: gradients(apply, p, sym, x, y, **settings))(params, x, y)


def symmetry(measure):
    return es.Symmetry(measure, es.vectors, es.vectors)


def by_autodiff(sym, params, x, y, **settings):
    """The same gradients by differentiating the decomposition's own numbers."""

    def numbers(floats):
        d = es.decompose(lambda x: apply({**floats, "count": params["count"]}, x), sym, x, y, **settings)
        return {part: getattr(d, part) for part in PARTS}

    return jax.jit(jax.jacrev(numbers))({k: v for k, v in params.items() if k != "count"})


def assert_trees_close(a, b, rtol=2e-4, atol=2e-6):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol, atol=atol), a, b)


CASES = [(measure, False) for measure in MEASURES] + [(es.so3.haar(4), True), (es.so3.coset(12, n=2), True)]


@pytest.mark.parametrize(("measure", "plug_in"), CASES, ids=str)
def test_they_are_the_derivatives_of_the_decomposition(case, measure, plug_in):
    params, x, y, key = case
    sym, weight = symmetry(measure), jnp.array([1, 2, 0.5, 1, 0, 3])
    mask = jnp.arange(5) < jnp.array([5, 4, 3, 5, 0, 1])[:, None]
    settings = {"key": key, "plug_in": plug_in, "weight": weight, "mask": mask}
    found = measured(params, sym, x, y, **settings)
    d = jax.jit(lambda p: es.decompose(functools.partial(apply, p), sym, x, y, **settings))(params)
    wanted = by_autodiff(sym, params, x, y, **settings)
    for part in PARTS:
        assert_trees_close({k: v for k, v in getattr(found, part).items() if k != "count"}, wanted[part])
        np.testing.assert_allclose(found.losses[part], getattr(d, part), rtol=1e-5)
    assert found.total["count"] is None
    assert found.estimator == d.estimator


def test_equation_10_holds_and_purity_is_the_norm_ratio(case):
    params, x, y, key = case
    found = measured(params, symmetry(es.so3.coset(12)), x, y, key=key)
    assert_trees_close(found.total, jax.tree.map(jnp.add, found.mean, found.equiv))
    norms = found.norms
    difference = jax.tree.map(jnp.subtract, found.total, found.mean)
    size = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(difference)))
    np.testing.assert_allclose(norms.purity, size / norms.mean, rtol=1e-4)
    squares = norms.mean**2 + norms.equiv**2 + 2 * norms.cosine * norms.mean * norms.equiv
    np.testing.assert_allclose(norms.total**2, squares, rtol=1e-4)  # the law of cosines


def test_an_equivariant_model_has_no_equivariance_gradient_beyond_rounding(case):
    _, x, y, key = case
    found = measured({"s": jnp.array(0.7)}, symmetry(es.so3.coset(12)), x, y, apply=lambda p, x: p["s"] * x, key=key)
    assert found.norms.equiv < 1e-6 * found.norms.mean


@pytest.mark.parametrize("measure", [es.so3.haar(8), es.so3.coset(12, n=3)], ids=str)
def test_chunks_change_nothing(case, measure, chunk=4):
    params, x, y, key = case
    one, many = (measured(params, symmetry(measure), x, y, key=key, chunk=c) for c in (1, chunk))
    for part in PARTS:
        assert_trees_close(getattr(one, part), getattr(many, part))


def test_groups_partition_the_gradient(case):
    params, x, y, key = case
    found = measured(params, symmetry(es.so3.coset(12)), x, y, key=key)
    groups = found.by_group()
    assert list(groups) == ["in", "out"]
    for part in PARTS:
        squares = sum(getattr(norms, part) ** 2 for norms in groups.values())
        np.testing.assert_allclose(squares, getattr(found.norms, part) ** 2, rtol=1e-5)
    assert set(found.by_group(depth=2)) == {"in/b", "in/w", "out"}
    record = found.record(depth=1)
    assert record["gradient_groups"]["out"]["purity"] == pytest.approx(float(groups["out"].purity))
    assert record["loss_ratio"] == pytest.approx(float(found.loss_ratio))


def test_another_convex_loss_gives_its_plug_in_gradients(case):
    params, x, y, key = case
    norm = es.Loss(lambda z, y: jnp.linalg.norm(z - y, axis=-1).mean(-1), "mean distance", "vectors")
    sym = symmetry(es.so3.haar(5))
    found = measured(params, sym, x, y, key=key, loss=norm, plug_in=True)
    wanted = by_autodiff(sym, params, x, y, key=key, loss=norm, plug_in=True)
    for part in PARTS:
        assert_trees_close({k: v for k, v in getattr(found, part).items() if k != "count"}, wanted[part])
    with pytest.raises(ValueError, match="plug_in=True"):
        gradients(apply, params, sym, x, y, key=key, loss=norm)


def test_bad_input_is_named(case):
    params, x, y, key = case
    sym = symmetry(es.so3.haar(4))
    with pytest.raises(ValueError, match="K = 1"):
        gradients(apply, params, symmetry(es.so3.haar(1)), x, y, key=key)
    with pytest.raises(ValueError, match="NaN"):
        gradients(apply, params, sym, x.at[0, 0, 0].set(jnp.nan), y, key=key)
    stretched = es.Symmetry(es.so3.haar(4), es.vectors, lambda g, x: 2 * es.vectors(g, x))
    with pytest.raises(ValueError, match="checked=False"):
        gradients(apply, params, stretched, x, y, key=key)
    with pytest.raises(ValueError, match="shape"):
        gradients(lambda p, x: apply(p, x)[:, :2], params, sym, x, y, key=key)
    with pytest.raises(ValueError, match="no floating-point"):
        gradients(lambda p, x: x, {"n": jnp.array(1)}, sym, x, y, key=key)


def test_bfloat16_models_give_float32_sums(case):
    params, x, y, key = case
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a, params)
    sym = symmetry(es.so3.coset(12))
    found = measured(low, sym, x, y, apply=lambda p, x: apply(p, x.astype(jnp.bfloat16)), key=key)
    exact = measured(jax.tree.map(lambda a: a.astype(float), low), sym, x, y, key=key)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.total)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.norms.equiv, exact.norms.equiv, rtol=0.05)
