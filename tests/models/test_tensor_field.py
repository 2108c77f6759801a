"""The equivariant force field: sizes, symmetry, padding, and forces that are its energy's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.data.graphs import TURNED
from equiscale.data.neighbours import build
from equiscale.models.graph_transformer import PRESETS as TRANSFORMERS
from equiscale.models.tensor_field import PRESETS, TensorField
from equiscale.parameters import by_path

SMALL = {"multiplicities": (4, 3, 2), "n_layers": 2, "radial_features": 8, "n_rbf": 8, "neighbours": 4.0, "cutoff": 4.0}
SPECIES = np.array([[6, 1, 8, 1, 7, 0], [8, 1, 1, 0, 0, 0]])
POSITIONS = np.random.default_rng(0).normal(scale=1.5, size=(2, 6, 3))


def graph_of(positions=POSITIONS, species=SPECIES, k=5, **settings):
    graph, _ = build(np.asarray(positions), species, k=k, cutoff=4.0, **settings)
    return jax.tree.map(jnp.asarray, graph)


@pytest.fixture(scope="module", params=["direct", "gradient"])
def case(request):
    """Parameters that are far from the small start, and the compiled model."""
    model = TensorField(**SMALL, forces=request.param)
    params = jax.jit(model.init)(jax.random.key(0), graph_of())
    params = jax.tree.map(lambda a: a + 0.2 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    return model, params, jax.jit(model.apply)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_named_by_their_size(name):
    model = TensorField(**PRESETS[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), graph_of())
    size = sum(a.size for a in jax.tree.leaves(shapes)) / 1e6
    assert size == pytest.approx(
        float(name.removeprefix("cpu_").removesuffix("M")), rel=0.25 if "0.02" in name else 0.4
    )
    assert set(PRESETS) == set(TRANSFORMERS)


def test_forces_turn_and_energies_stay_exactly(case):
    _, params, apply = case
    graph = graph_of()
    found = apply(params, graph)
    assert jnp.linalg.norm(found.forces) > 0.05 and float(jnp.std(found.energy)) > 1e-3
    for g in (es.so3.random(jax.random.key(3)), -jnp.eye(3)):
        turned = apply(params, jax.tree.map(lambda act, x, g=g: act(g, x), TURNED, graph))
        np.testing.assert_allclose(turned.forces, found.forces @ g.T, atol=2e-5)
        np.testing.assert_allclose(turned.energy, found.energy, atol=2e-5)


def test_padding_and_order_change_nothing(case):
    _, params, apply = case
    found = apply(params, graph_of())
    order = np.array([3, 0, 4, 1, 2])
    moved = apply(params, graph_of(POSITIONS[:1, order], SPECIES[:1, order], k=7))
    np.testing.assert_allclose(moved.energy, found.energy[:1], atol=1e-5)
    alone = apply(params, graph_of(POSITIONS[1:, :3], SPECIES[1:, :3]))
    np.testing.assert_allclose(alone.forces, found.forces[1:, :3], atol=1e-5)
    assert not found.forces[1, 3:].any()


@pytest.mark.slow  # gradient forces are tested in test_spherical_transformer and test_graph_transformer
def test_gradient_forces_are_minus_the_derivative_and_direct_ones_need_not_be(x64):
    model = TensorField(**SMALL, forces="gradient")
    graph = graph_of()
    params = jax.jit(model.init)(jax.random.key(0), graph)
    params = jax.tree.map(lambda a: a + 0.2 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    slope = jax.jit(jax.grad(lambda x: model.apply(params, graph._replace(positions=x)).energy.sum()))(graph.positions)
    np.testing.assert_allclose(jax.jit(model.apply)(params, graph).forces, -slope, atol=1e-9)
    assert "force_out" not in str(list(by_path(params))) and float(jnp.abs(slope).max()) > 1e-2


def test_an_atom_alone_has_no_force_and_finite_gradients(case):
    _, params, apply = case
    lone = graph_of(np.array([[[0, 0, 0], [50.0, 0, 0]]]), np.array([[8, 1]]))
    assert not lone.mask.any() and not apply(params, lone).forces.any()

    def loss(params, graph):
        found = apply(params, graph)
        return found.energy.sum() + jnp.square(found.forces).sum()

    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(jax.jit(jax.grad(loss))(params, lone)))


@pytest.mark.parametrize(
    "fields, message",
    [({"multiplicities": (4,)}, "need scalars and vectors"), ({"forces": "both"}, "one of"), ({"cutoff": 0}, "cutoff")],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TensorField(**SMALL | fields).init, jax.random.key(0), graph_of())
