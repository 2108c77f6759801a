"""Edges follow a turned cell, and bond-orientational order needs no harmonics; derivatives are finite everywhere."""

import functools

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import equiscale as es
from equiscale.data.graphs import TURNED
from equiscale.data.neighbours import build
from equiscale.models.graph_features import bond_order, edges, features, gaussians

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def crystal(k=14, dtype=np.float64):
    """A periodic cell of 3 atoms in a skewed box; every atom has more than k neighbours."""
    rng = np.random.default_rng(0)
    cell = 4 * np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3))
    x = rng.uniform(0, 1, (3, 3)) @ cell
    graph, cut = build(x[None].astype(dtype), np.array([[6, 7, 8]]), k=k, cutoff=5.0, cell=cell[None])
    assert cut.crowded == 3
    return jax.tree.map(jnp.asarray, graph)


def test_edges_of_a_turned_crystal_are_the_turned_edges(x64):
    graph = crystal()
    direction, distance = edges(graph)
    for i in range(3):
        for slot in range(14):
            j, shift = graph.neighbours[0, i, slot], graph.shifts[0, i, slot]
            vector = graph.positions[0, i] - graph.positions[0, j] - shift @ graph.cell[0]
            np.testing.assert_allclose(direction[0, i, slot] * distance[0, i, slot], vector, atol=1e-13)
    assert (np.diff(distance) >= 0).all() and distance.max() <= 5
    g = jnp.asarray(Rotation.random(random_state=1).as_matrix())
    turned = es.actions.apply(TURNED, g[None], graph)
    assert not np.allclose(turned.cell, graph.cell)
    found = edges(turned)
    np.testing.assert_allclose(found[0], direction @ g.T, atol=1e-13)
    np.testing.assert_allclose(found[1], distance, atol=1e-13)
    # Without turning the cell some edges would be wrong.
    assert np.abs(edges(turned._replace(cell=graph.cell))[1] - distance).max() > 0.1


def test_all_but_the_directions_is_invariant(x64):
    graph = crystal()
    turned = es.actions.apply(TURNED, jnp.asarray(Rotation.random(1, random_state=2).as_matrix()), graph)
    a, b = (jit(lambda g: features(g, 5.0, 8, 6))(g) for g in (graph, turned))
    assert np.abs(a.direction - b.direction).max() > 0.1
    for name in set(a._fields) - {"direction"}:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-13)


def by_harmonics(unit, mask, n_degrees):
    """q_l from real spherical harmonics, sum_m Y_lm^2 = 2 l + 1."""
    y = e3nn.spherical_harmonics(e3nn.Irreps.spherical_harmonics(n_degrees - 1), unit, False, "component").array
    mean = jnp.sum(jnp.where(mask[..., None], y, 0), -2) / mask.sum(-1, keepdims=True)
    return jnp.stack([jnp.linalg.norm(mean[..., n**2 : (n + 1) ** 2], axis=-1) for n in range(n_degrees)], -1)


def test_bond_order_is_that_of_spherical_harmonics(x64):
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(5, 7, 3))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    mask = np.arange(7) < np.array([7, 1, 2, 4, 6])[:, None]
    found = jit(bond_order, static_argnums=2)(np.where(mask[:, :, None], unit, 0) @ unit.mT, mask, 10)
    np.testing.assert_allclose(found, by_harmonics(unit, mask, 10), atol=1e-12)
    np.testing.assert_allclose(found[1], np.sqrt(2 * np.arange(10) + 1), atol=1e-12)  # one neighbour: P_l(1)


def test_where_symmetry_makes_it_zero_it_does_not_depend_on_the_orientation():
    """A site of a face-centred cubic crystal: q_1, q_2, q_3, q_5 vanish, and rounding must not show."""
    site = np.array([[a, b, 0] for a in (1, -1) for b in (1, -1)]) / np.sqrt(2)
    site = np.concatenate([np.roll(site, axis, axis=1) for axis in range(3)])
    turned = np.einsum("rij,kj->rki", Rotation.random(50, random_state=0).as_matrix(), site).astype(np.float32)
    cosines = jnp.einsum("rjc,rkc->rjk", turned, turned, precision="highest")
    q = np.asarray(jit(bond_order, static_argnums=2)(cosines, jnp.ones((50, 12), bool), 7))
    assert q.std(0).max() < 1e-5 and q[:, [1, 2, 3, 5]].max() < 5e-3
    steinhardt = [0.19094065 * 3, 0.57452425 * np.sqrt(13)]
    np.testing.assert_allclose(q[:, [4, 6]].mean(0), steinhardt, rtol=1e-4)


def test_derivatives_are_finite_twice_where_atoms_are_alone_and_order_is_zero():
    site = np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3)), np.full((1, 3), 50.0)])  # an octahedron
    species = np.where(np.arange(9) < 8, 6, 0)
    x = np.concatenate([site, site[-1:]]).astype(np.float32)  # padding on top of an atom
    graph, cut = build(x[None], species[None], k=7, cutoff=1.2)
    assert cut.isolated == 1
    graph = jax.tree.map(jnp.asarray, graph)

    def energy(x):
        f = features(graph._replace(positions=x), 1.2, 8, 6)
        return sum(jnp.sum(jnp.sin(a)) for a in (f.direction, f.cosines, f.radial, f.order))

    slope = jit(jax.grad(lambda x: jnp.sum(jax.grad(energy)(x) ** 2)))(graph.positions)
    assert jnp.isfinite(slope).all() and jnp.abs(slope[0, :7]).max() > 0
    assert not slope[0, 7:].any(), "nobody feels an atom that is alone, or padding"
    f = jit(lambda g: features(g, 1.2, 8, 6))(graph)
    assert f.slots[0, 7:].sum() == 2 and f.slots[0, 7:, 0].all(), "who is alone writes to himself"
    assert not any(jnp.any(a[0, 7:]) for a in (f.direction, f.cosines, f.radial, f.order))


def test_gaussians_are_the_published_ones():
    distance = np.array([0.0, 1.3, 12.0])
    centre = np.linspace(0, 12, 600)
    wanted = np.exp(-0.5 * ((distance[:, None] - centre) / (2 * 12 / 599)) ** 2)
    np.testing.assert_allclose(gaussians(jnp.asarray(distance), 12.0, 600), wanted, atol=2e-4)


@pytest.mark.parametrize("name", ["positions", "species", "mask", "shifts", "cell"])
def test_shapes_that_disagree_are_named(name):
    graph = crystal()
    with pytest.raises(ValueError, match=f"{name} has shape"):
        features(graph._replace(**{name: getattr(graph, name)[..., None]}), 5.0, 8, 6)
