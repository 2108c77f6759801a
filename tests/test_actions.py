import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equiscale as es
from equiscale import actions, rotations
from equiscale.rotations import random_orthogonal, random_rotation

# name: (group, action, shape of one example)
ACTIONS = {
    "vectors": (es.o3, es.vectors, (5, 3)),
    "tensors(2)": (es.o3, es.tensors(2), (4, 3, 3)),
    "tensors(3)": (es.so3, es.tensors(3), (3, 3, 3)),
    "irreps": (es.o3, es.irreps("2x0e + 1x0o + 2x1o + 1x1e + 1x2e + 1x3o"), (4, 24)),
    "grid": (es.full_octahedral, es.grid, (2, 5, 5, 5)),
    "grid of even side": (es.octahedral, es.grid, (4, 4, 4)),
    "permute": (es.permutations(6), es.permute(0), (6, 2)),
    "permute last": (es.permutations(6), es.permute(-1), (2, 6)),
    "conjugate": (es.permutations(5), es.conjugate, (5, 5)),
    "trivial": (es.so3, es.trivial, (7,)),
    "chain": (es.octahedral, es.chain(es.grid, lambda g, x: x * jnp.linalg.det(g)), (4, 4, 4)),
}


def draw(group, seed):
    return group.random(jax.random.key(seed))


@pytest.mark.parametrize("name", ACTIONS)
@given(seed=st.integers(0, 2**31 - 3))
def test_actions_are_isometric_homomorphisms(name, seed):
    group, act, shape = ACTIONS[name]
    g, h = draw(group, seed), draw(group, seed + 1)
    x = jax.random.normal(jax.random.key(seed + 2), shape)
    np.testing.assert_allclose(act(group.multiply(g, h), x), act(g, act(h, x)), atol=2e-5)
    np.testing.assert_allclose(act(group.inverse(g), act(g, x)), x, atol=2e-5)
    np.testing.assert_allclose(jnp.linalg.norm(act(g, x)), jnp.linalg.norm(x), rtol=1e-5)


def test_translations_add():
    t, s = jnp.array([1.0, 2, 3]), jnp.array([-1.0, 0, 5])
    x = jax.random.normal(jax.random.key(0), (4, 3))
    np.testing.assert_allclose(es.translate(t + s, x), es.translate(t, es.translate(s, x)), rtol=1e-6)


@pytest.mark.parametrize("n", [4, 5])
def test_grid_moves_voxels_as_vectors_move(n):
    """v'[g p] = v[p] about the centre, for all 48 elements: against a loop over voxels in NumPy."""
    group = np.concatenate([rotations.cube(), -rotations.cube()])
    v = np.random.default_rng(n).standard_normal((2, n, n, n)).astype(np.float32)
    turned = jax.vmap(es.grid, (0, None))(jnp.asarray(group, jnp.float32), jnp.asarray(v))
    centre = (n - 1) / 2
    for g, result in zip(group, turned, strict=True):
        expected = np.empty_like(v)
        for p in np.ndindex(n, n, n):
            q = np.rint(g @ (np.array(p) - centre) + centre).astype(int)
            expected[(slice(None), *q)] = v[(slice(None), *p)]
        np.testing.assert_array_equal(result, expected)


def test_grid_quarter_turn_is_rot90():
    quarter = jnp.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    v = np.random.default_rng(0).standard_normal((3, 6, 6, 6))
    np.testing.assert_array_equal(es.grid(quarter, v), np.rot90(v, 1, axes=(1, 2)).astype(np.float32))


def test_grid_gradient_is_the_inverse_turn_and_hessians_pass():
    g = draw(es.full_octahedral, 3)
    v = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
    w = jax.random.normal(jax.random.key(1), v.shape)
    np.testing.assert_array_equal(jax.grad(lambda v: (es.grid(g, v) * w).sum())(v), es.grid(g.T, w))

    def energy(s):
        return (es.grid(g, s * v) ** 3).sum()

    np.testing.assert_allclose(jax.hessian(energy)(1.0), 6 * (v**3).sum(), rtol=1e-4)


def test_irreps_1o_are_vectors_and_1e_pseudovectors():
    g = random_orthogonal(jax.random.key(2))
    x = jax.random.normal(jax.random.key(0), (4, 3))
    np.testing.assert_allclose(es.irreps("1o")(g, x), es.vectors(g, x), atol=1e-5)
    np.testing.assert_allclose(es.irreps("1e")(g, x), jnp.linalg.det(g) * es.vectors(g, x), atol=1e-5)


def test_actions_keep_the_dtype_and_full_precision():
    g = random_rotation(jax.random.key(0))
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jnp.ones((2, 3), dtype)
        assert es.vectors(g, x).dtype == es.irreps("1o")(g, x).dtype == dtype
    text = jax.jit(es.vectors).lower(g, jnp.ones((2, 3))).as_text()
    assert "HIGHEST" in text, "TF32 inside an action reads as broken symmetry"


def test_pytrees_get_one_action_per_leaf_and_one_element_per_example():
    g = jax.vmap(random_rotation)(jax.random.split(jax.random.key(0), 4))
    x = {
        "positions": jax.random.normal(jax.random.key(1), (4, 5, 3)),
        "species": jnp.arange(20).reshape(4, 5),
        "nested": [jax.random.normal(jax.random.key(2), (4, 3)), jnp.float32(0.5)],
    }
    acts = {"positions": es.vectors, "species": es.trivial, "nested": [es.vectors, es.trivial]}
    turned = actions.apply(acts, g, x)
    for i in range(4):
        np.testing.assert_allclose(turned["positions"][i], es.vectors(g[i], x["positions"][i]), rtol=1e-6)
        np.testing.assert_allclose(turned["nested"][0][i], es.vectors(g[i], x["nested"][0][i]), rtol=1e-6)
    assert turned["species"] is x["species"] and turned["nested"][1] is x["nested"][1]
    np.testing.assert_array_equal(
        actions.apply(es.vectors, g, [x["positions"]])[0], turned["positions"]
    )  # one action for a whole subtree


def test_segmented_rows_turn_with_their_graph():
    g = jax.vmap(random_rotation)(jax.random.split(jax.random.key(0), 3))
    nodes, edges = jax.random.normal(jax.random.key(1), (7, 3)), jax.random.normal(jax.random.key(2), (4, 3))
    segments = {"nodes": jnp.array([0, 0, 0, 1, 1, 2, 2]), "edges": jnp.array([0, 1, 1, 2])}
    acts = (es.segmented(es.vectors, "nodes"), es.segmented(es.vectors, "edges"))
    turned = actions.apply(acts, g, (nodes, edges), segments=segments)
    for rows, out, ids in zip((nodes, edges), turned, segments.values(), strict=True):
        np.testing.assert_allclose(out, jnp.einsum("rij,rj->ri", g[ids], rows), atol=1e-6)


def test_factors_of_a_product_act_in_turn():
    both = es.product(es.so3.haar(1), es.permutations(5).haar(1))
    g = jax.tree.map(lambda a: a[0, 0], both.draw(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    act = es.chain(es.on(0, es.vectors), es.on(1, es.permute(0)))
    np.testing.assert_allclose(act(g, x)[g[1]], x @ g[0].T, atol=1e-6)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: es.vectors(jnp.eye(3), jnp.ones((3, 4))), ValueError, r"\[3, 4\]"),
        (lambda: es.tensors(2)(jnp.eye(3), jnp.ones((4, 3))), ValueError, r"\[4, 3\]"),
        (lambda: es.irreps("1o")(jnp.eye(3), jnp.ones(4)), ValueError, r"\[\.\.\., 3\], got shape \[4\]"),
        (lambda: es.grid(jnp.eye(3), jnp.ones((4, 4, 5))), ValueError, "not cubic|cubic grids.*pad"),
        (lambda: es.grid(random_rotation(jax.random.key(0)), jnp.ones((4, 4, 4))), ValueError, "signed permutation"),
        (lambda: es.permute(0)(jnp.arange(4), jnp.ones((5, 3))), ValueError, "4 items"),
        (lambda: es.permute(3)(jnp.arange(4), jnp.ones((4, 3))), ValueError, "axis=3"),
        (lambda: es.translate(jnp.ones(3), jnp.ones((4, 2))), ValueError, r"\[4, 2\]"),
        (lambda: actions.apply(es.vectors, jnp.ones((4, 3, 3)), jnp.ones((5, 3))), ValueError, "axis of 4"),
        (lambda: actions.apply({"a": 3}, jnp.ones((4, 3, 3)), {"a": jnp.ones((4, 3))}), TypeError, "'a'.*3"),
        (lambda: actions.apply([es.vectors], jnp.ones((4, 3, 3)), {"a": jnp.ones((4, 3))}), TypeError, "leaf by leaf"),
        (
            lambda: actions.apply(es.segmented(es.vectors), jnp.ones((4, 3, 3)), jnp.ones((4, 3))),
            ValueError,
            "segments",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_shape(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("angle", [1e-4, 1e-2, 1.0, np.pi])
def test_irreps_turn_by_small_angles_as_well_as_by_large_ones(angle):
    """In float32; through Euler angles a turn by 1e-4 is wrong by 1e-4. Degree 1 is the rotation itself."""
    axis = np.array([1.0, 2.0, 3.0]) / 14**0.5
    cross = np.cross(np.eye(3), -axis)
    rotation = jnp.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (3,))
    np.testing.assert_allclose(es.irreps("1o")(rotation, x), rotation @ x, atol=1e-6)

    def quadratic(v):
        return e3nn.spherical_harmonics("2e", e3nn.IrrepsArray("1o", v), False).array

    np.testing.assert_allclose(es.irreps("2e")(rotation, quadratic(x)), quadratic(rotation @ x), atol=1e-5)
