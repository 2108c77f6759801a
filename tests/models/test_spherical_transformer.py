"""Spherical networks: sizes, symmetry exact or up to quadrature, padding, and gradients where edges are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.data.graphs import TURNED
from equiscale.models.spherical_transformer import KINDS, PRESETS, SphericalTransformer
from tests.models.test_tensor_field import POSITIONS, SPECIES, graph_of

SMALL = {
    "channels": 4,
    "n_layers": 1,
    "hidden": 8,
    "n_rbf": 6,
    "radial_width": 8,
    "n_heads": 2,
    "neighbours": 4.0,
    "message_hidden": 4,
}
EXACT = ("equiformer", "tfn", "mace")  # the others up to quadrature


def make(kind, **fields):
    return SphericalTransformer(**KINDS[kind] | SMALL | {"points": 32, "cutoff": 4.0} | fields)


@pytest.fixture(scope="module", params=["est_exact", "est_published_ga", "mace"])
def case(request):
    """Parameters that are far from the small start, and the compiled model."""
    model = make(request.param)
    params = jax.jit(model.init)(jax.random.key(0), graph_of())
    params = jax.tree.map(lambda a: a + 0.2 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    return request.param, model, params, jax.jit(model.apply)


@pytest.mark.parametrize("kind", KINDS)
def test_presets_are_named_by_their_size(kind):
    model = SphericalTransformer(**PRESETS[f"{kind}_cpu_0.1M"])
    shapes = jax.eval_shape(model.init, jax.random.key(0), graph_of())
    assert sum(a.size for a in jax.tree.leaves(shapes)) == pytest.approx(1e5, rel=0.15)


def test_forces_turn_exactly_or_up_to_quadrature(case):
    kind, _, params, apply = case
    found = apply(params, graph_of())
    size = float(jnp.linalg.norm(found.forces))
    assert size > 0.05 and float(jnp.std(found.energy)) > 1e-3
    g = es.so3.random(jax.random.key(3))
    turned = apply(params, es.actions.apply(TURNED, g, graph_of(), shared=True))
    error = float(jnp.linalg.norm(turned.forces - found.forces @ g.T)) / size
    of_energy = float(jnp.abs(turned.energy - found.energy).max())
    if kind in EXACT:
        assert error < 1e-5 and of_energy < 1e-5
    else:
        assert 1e-5 < error < 0.5 and of_energy < 0.2


def test_after_each_layer_stand_the_networks_of_so_many_layers():
    deep = make("tfn", n_layers=2, degree=1)
    params = jax.jit(deep.init)(jax.random.key(0), graph_of())
    by_layer = jax.jit(deep.apply, static_argnames="method")(params, graph_of(), method="after_each_layer")
    shallow = jax.jit(deep.clone(n_layers=1).apply)(params, graph_of())
    assert len(by_layer) == 2 and not np.allclose(by_layer[1].forces, shallow.forces, rtol=1e-2)
    np.testing.assert_allclose(by_layer[0].forces, shallow.forces, atol=1e-5)
    np.testing.assert_allclose(by_layer[0].energy, shallow.energy, atol=1e-5)


def test_padding_and_atoms_without_neighbours(case):
    """Padding changes nothing; an atom alone has an energy by its species, no force, and finite derivatives."""
    _, _, params, apply = case
    found = apply(params, graph_of())
    wide = np.pad(POSITIONS, ((0, 0), (0, 2), (0, 0)), constant_values=7.0), np.pad(SPECIES, ((0, 0), (0, 2)))
    padded = apply(params, graph_of(*wide))
    np.testing.assert_allclose(padded.forces[:, :6], found.forces, atol=2e-5)
    np.testing.assert_allclose(padded.energy, found.energy, atol=2e-5)
    assert not jnp.any(padded.forces[wide[1] == 0])
    apart = graph_of(POSITIONS + 100 * np.arange(6)[:, None])

    @jax.jit
    def slopes(params, positions):
        def energy(params, positions):
            return apply(params, apart._replace(positions=positions)).energy.sum()

        return jax.grad(energy, argnums=(0, 1))(params, positions)

    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(slopes(params, apart.positions)))
    lonely = apply(params, apart)
    assert jnp.isfinite(lonely.energy).all() and not jnp.any(lonely.forces)


def test_inversion_is_exact_on_antipodal_points():
    """All of it commutes with p -> -p, so degrees keep their natural parity and a cross product is beyond it."""
    model = make("est_exact")
    params = jax.jit(model.init)(jax.random.key(0), graph_of())
    found, inverted = (jax.jit(model.apply)(params, graph_of(sign * POSITIONS)) for sign in (1, -1))
    np.testing.assert_allclose(inverted.forces, -found.forces, atol=1e-6)
    np.testing.assert_allclose(inverted.energy, found.energy, atol=1e-6)


def test_more_points_are_more_equivariant():
    def error(points):
        model = make("est_exact", points=points)
        params, apply = jax.jit(model.init)(jax.random.key(0), graph_of()), jax.jit(model.apply)
        g = es.so3.random(jax.random.key(3))
        found, turned = (
            apply(params, es.actions.apply(TURNED, h, graph_of(), shared=True)).forces for h in (jnp.eye(3), g)
        )
        return float(jnp.linalg.norm(turned - found @ g.T) / jnp.linalg.norm(found))

    assert error(128) < error(32) / 20


def test_points_turned_in_training_change_it_by_quadrature_alone():
    graph = graph_of()
    model = make("est_exact", points=192, turned=True)
    params = jax.jit(model.init)(jax.random.key(0), graph)
    still = jax.jit(model.apply)(params, graph).forces
    draw = jax.jit(lambda p, key: model.apply(p, graph, train=True, rngs={"points": key}).forces)
    drawn = [draw(params, jax.random.key(i)) for i in (0, 1)]
    assert jnp.linalg.norm(drawn[0] - drawn[1]) > 0
    assert jnp.linalg.norm(drawn[0] - still) < 1e-3 * jnp.linalg.norm(still)


def test_forces_of_the_gradient_are_the_energys():
    model = make("tfn", forces="gradient")
    graph = graph_of()
    params = jax.jit(model.init)(jax.random.key(0), graph)
    apply = jax.jit(model.apply)
    step = 1e-2 * jax.random.normal(jax.random.key(1), POSITIONS.shape) * graph.is_atom[..., None]
    before, after = (apply(params, graph._replace(positions=graph.positions + s * step)).energy for s in (-1, 1))
    work = (apply(params, graph).forces * step).sum((1, 2))
    np.testing.assert_allclose(before - after, 2 * work, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"points": 33}, "no design rule has 33 points; the nearest sizes are 32 and 48"),
        ({"points": 6}, r"tells 6 harmonics apart, and there are \(L \+ 1\)\^2 = 9 .* the smallest design rule"),
        ({"rule": "lebedev", "points": 74}, "has negative weights"),
        ({"message": "loud"}, "message must be one of"),
        ({"degree": 0}, "degree 0 and n_layers 1 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make("est_exact", **fields).init, jax.random.key(0), graph_of())
    with pytest.raises(ValueError, match="4 channels do not divide into n_heads=3"):
        jax.eval_shape(make("equiformer", n_heads=3).init, jax.random.key(0), graph_of())
