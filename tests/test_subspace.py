"""Equivariant subspaces: projections, known commutants, the force head's closed forms, Theorems 4 to 6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale import subspace, theorems
from equiscale.components import components
from equiscale.parameters import insert, select
from equiscale.subspace import convolution, kernel
from tests.test_curvature import HEAD, force_head, head  # noqa: F401
from tests.test_gradients import apply, make_params

EXACT = es.so3.quadrature(2)  # products of two vectors
KERNELS = {
    "vectors to vectors": (kernel(es.vectors, es.vectors), (3, 3), 1),
    "scalars to vectors": (kernel(es.trivial, es.vectors), (4, 3), 0),
    "a bias of vectors": (kernel(es.vectors), (3,), 0),
    "scalars to scalars": (kernel(es.trivial, es.trivial), (4, 5), 20),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("measure", [EXACT, es.octahedral.enumerate()], ids=str)
def test_it_is_an_orthogonal_projection_onto_the_commutant(name, measure, x64):
    act, shape, dimension = KERNELS[name]
    n = int(np.prod(shape))

    @jax.jit
    def project(v):
        return subspace.equivariant_part(v.reshape(shape), measure, act).ravel()

    matrix = jax.vmap(project)(jnp.eye(n))
    np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.trace(matrix) == pytest.approx(dimension)  # Schur: one dimension for each pair of equal irreps


def test_a_vector_layer_projects_to_a_third_of_its_trace_by_every_exact_measure():
    w = jax.random.normal(jax.random.key(0), (3, 3))
    for measure in (EXACT, es.octahedral.enumerate(), es.so3.coset(12), es.so3.coset(60)):
        found = subspace.equivariant_part(w, measure, kernel(es.vectors, es.vectors), key=jax.random.key(1))
        np.testing.assert_allclose(found, jnp.trace(w) / 3 * jnp.eye(3), atol=1e-6)


def test_a_projected_convolution_commutes_with_the_cube():
    key = jax.random.split(jax.random.key(0), 2)
    w = jax.random.normal(key[0], (3, 3, 3, 2, 4))
    x = jax.random.normal(key[1], (2, 2, 5, 5, 5))

    def conv(w, x):
        return jax.lax.conv_general_dilated(x, w, (1, 1, 1), "SAME", dimension_numbers=("NCDHW", "DHWIO", "NCDHW"))

    parts = subspace.split(w, es.octahedral.enumerate(), convolution())
    sym = es.Symmetry(es.octahedral.enumerate(), es.grid, es.grid)
    y = jnp.zeros((2, 4, 5, 5, 5))
    run = jax.jit(lambda w: es.decompose(lambda x: conv(w, x), sym, x, y, key=key[0]))
    d = run(parts.equivariant)
    assert d.percent < 1e-4
    # The remainder is all equivariance error: its twirl is 0 (the twirl of a linear layer is its projection).
    np.testing.assert_allclose(run(parts.complement).percent, 100, rtol=1e-5)
    np.testing.assert_allclose(run(w).mean, d.total, rtol=1e-5)
    # Classes of voxels of a 3^3 kernel under the cube: centre, faces, edges, corners.
    assert len(np.unique(np.asarray(parts.equivariant[..., 0, 0]).round(5))) == 4


def test_channels_can_carry_a_representation():
    w = jax.random.normal(jax.random.key(0), (3, 3, 3, 1, 3))
    scalar_to_vector = convolution(es.trivial, es.vectors)
    part = subspace.equivariant_part(w, es.octahedral.enumerate(), scalar_to_vector)
    for g in es.octahedral.enumerate().draw(None)[0][:5]:
        np.testing.assert_allclose(scalar_to_vector(g, part), part, atol=1e-6)
    assert jnp.abs(part).max() > 1e-2, "a gradient-like filter is equivariant"


def test_pytrees_knob_and_paths():
    params = make_params(jax.random.key(0), width=3)
    chosen = select(params, "in/*")
    assert list(chosen) == ["in/b", "in/w"]
    acts = {"in/b": kernel(es.vectors), "in/w": kernel(es.vectors, es.vectors)}
    parts = subspace.split(chosen, EXACT, acts)
    np.testing.assert_allclose(parts.scaled(1.0)["in/w"], params["in"]["w"], atol=1e-6)
    np.testing.assert_allclose(parts.scaled(0.0)["in/b"], 0, atol=1e-6)
    inner = sum(jnp.vdot(parts.equivariant[k], parts.complement[k]) for k in acts)
    np.testing.assert_allclose(inner, 0, atol=1e-5)
    whole = insert(params, parts.scaled(0.5))
    np.testing.assert_allclose(whole["in"]["w"], (params["in"]["w"] + parts.equivariant["in/w"]) / 2, atol=1e-6)
    assert whole["out"] is params["out"]


# --- the force head ----------------------------------------------------------------------------------------------


def test_the_heads_twin_is_equivariant_with_the_same_twirl(force_head):  # noqa: F811
    params, x, y, _ = force_head
    parts = subspace.force_head(params["w"])
    run = jax.jit(lambda w: es.decompose(lambda x: head({"w": w}, x), HEAD, x, y, key=jax.random.key(0)))
    model, twin, rest = map(run, (params["w"], parts.equivariant, parts.complement))
    assert twin.percent < 1e-4
    np.testing.assert_allclose(twin.total, model.mean, rtol=1e-5)
    np.testing.assert_allclose(rest.equiv, model.equiv, rtol=1e-5)


def axes_of_rows(g, w):
    """The cube's rotations permute the rows of the head: E is their average."""
    return jnp.square(g).astype(w.dtype) @ w


def test_theorem_4_for_the_force_head(force_head):  # noqa: F811
    params, x, y, gram = force_head
    c = components(head, params, HEAD, x, y, key=jax.random.key(0))
    from_e = theorems.deviation(c, es.octahedral.enumerate(), {"w": axes_of_rows})
    wanted = subspace.force_head(np.asarray(params["w"], np.float64))
    np.testing.assert_allclose(from_e.complement, np.ravel(wanted.complement), atol=1e-7)
    assert from_e.basis.shape == (12, 8)
    q = np.linalg.eigvalsh(theorems.quadratic_form(c, from_e))
    np.testing.assert_allclose(q, np.repeat(np.linalg.eigvalsh(gram) / 9, 2), rtol=1e-5)
    found = theorems.bounds(c, from_e)
    assert found.hold and found.twin < 1e-12 * found.equiv
    assert found.lowest < found.effective < found.highest
    law = theorems.law(c, from_e, np.array([-2, 0.1, 1, 3.0]))
    np.testing.assert_allclose(law.coefficient, found.equiv, rtol=1e-10)  # quadratic for all s ...
    np.testing.assert_allclose(law.mean, c.losses(c.vector)["mean"], rtol=1e-10)  # ... and the twirl unmoved
    left, right = theorems.gradient_bound(c, from_e, found.highest)
    assert left <= right
    np.testing.assert_allclose(  # grad_k = (2/9) G d_k
        left, 2 / 9 * np.linalg.norm(np.asarray(wanted.complement) @ gram), rtol=1e-5
    )


# --- Theorem 5: a non-linear model -------------------------------------------------------------------------------


def gated(params, x):
    """Two linear maps of vectors with an invariant gate between them."""
    h = x @ params["a"]
    return jax.nn.sigmoid(jnp.sum(h**2, -1, keepdims=True)) * h @ params["b"]


def test_theorem_5_and_6_hold_near_the_subspace():
    keys = jax.random.split(jax.random.key(4), 4)
    x, y = jax.random.normal(keys[0], (2, 8, 4, 3))
    acts = {"a": kernel(es.vectors, es.vectors), "b": kernel(es.vectors, es.vectors)}
    sym = es.Symmetry(es.so3.coset(60), es.vectors, es.vectors)
    errors = []
    for s in (0.1, 0.01, 0.001):
        params = {
            name: jnp.eye(3) + s * jax.random.normal(key, (3, 3)) for name, key in zip("ab", keys[1:3], strict=True)
        }
        c = components(gated, params, sym, x, y, key=keys[3])
        from_e = theorems.deviation(c, es.so3.quadrature(2), acts)
        assert from_e.basis.shape == (18, 16)
        found = theorems.bounds(c, from_e)
        predicted = (
            np.linalg.norm(
                np.linalg.cholesky(theorems.quadratic_form(c, from_e) + 1e-15 * np.eye(16)).T
                @ (from_e.basis.T @ from_e.complement)
            )
            ** 2
        )
        errors.append(abs(found.equiv / predicted - 1))
        assert found.twin < 1e-12
        left, right = theorems.gradient_bound(c, from_e, found.highest)
        assert left <= right * (1 + 3 * s)
    assert found.hold
    assert errors[1] < errors[0] / 5 and errors[2] < errors[1] / 5, "the remainder is of third order"


# --- errors ------------------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    w = jnp.ones((3, 3))
    with pytest.raises(ValueError, match="pass key"):
        subspace.equivariant_part(w, es.so3.coset(12), kernel(es.vectors, es.vectors))
    with pytest.raises(ValueError, match="one for each axis"):
        subspace.equivariant_part(w, EXACT, kernel(es.vectors))
    with pytest.raises(ValueError, match="one row for each"):
        subspace.force_head(jnp.ones((4, 3)))
    params = make_params(jax.random.key(0), width=3)
    x = jax.random.normal(jax.random.key(1), (4, 5, 3))
    sym = es.Symmetry(es.so3.coset(12), es.vectors, es.vectors)
    c = components(apply, params, sym, x, x, key=jax.random.key(2), only="out")
    with pytest.raises(ValueError, match="orthogonal projection"):
        theorems.deviation(c, es.paper16(), {"out": kernel(es.vectors, es.vectors)})
    with pytest.raises(ValueError, match="nearest"):
        select(params, "outt")
    with pytest.raises(ValueError, match="have no nowhere"):
        insert(params, {"nowhere": w})
    with pytest.raises(ValueError, match="shape"):
        insert(params, {"out": jnp.ones(2)})
