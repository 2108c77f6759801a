"""EScAIP's graph transformer: parity with the published code, sizes, symmetry, and atoms that have no neighbour."""

from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.data import neighbours
from equiscale.data.graphs import TURNED, Graph
from equiscale.models.graph_features import features
from equiscale.models.graph_transformer import PRESETS, GraphTransformer

REFERENCE = Path(__file__).parents[3] / "shared/reference/escaip_v1_tiny.npz"
TINY = {
    "hidden": 16, "n_layers": 2, "n_heads": 4, "n_rbf": 16, "radial_features": 12, "species_features": 8,
    "n_degrees": 5, "order_features": 6, "n_species": 20, "cutoff": 4.0,
}  # fmt: skip

# Names of the published parameters, part by part, in the order in which they are replaced.
RENAMED = (
    ("input_block.input_layer.edge_ffn", "input.edges"),
    ("input_block.input_layer.norm", "input.edges_norm"),
    ("input_block.norm.node_norm", "input.atoms_out_norm"),
    ("input_block.norm.edge_norm", "input.edges_out_norm"),
    ("input_block.input_layer", "input.attributes"),
    ("graph_attention.multi_head_attention.in_proj_", "block.attention.qkv."),
    ("graph_attention.multi_head_attention.out_proj", "block.attention.out"),
    ("graph_attention.attn_scalar", "block.attention.angle_scale"),
    ("graph_attention.node_linear.0", "block.pairs"),
    ("graph_attention.message_linear.0", "block.messages"),
    ("graph_attention", "block.attributes"),
    ("norm_attn", "block.attention_norm"),
    ("norm_ffn.node_norm", "block.atoms_norm"),
    ("norm_ffn.edge_norm", "block.edges_norm"),
    ("feedforward.mlp_node", "block.atoms"),
    ("feedforward.mlp_edge", "block.edges"),
    ("source_atomic_embedding.weight", "sender_species.embedding"),
    ("target_atomic_embedding.weight", "receiver_species.embedding"),
    ("source_direction_embedding.0", "sender_order"),
    ("target_direction_embedding.0", "receiver_order"),
    ("edge_distance_embedding.0", "radial"),
    ("edge_linear.0", "mix"),
    ("readout_layers.0.", "input_readout."),
    ("readout_layers.1.", "layer_0.readout."),
    ("readout_layers.2.", "layer_1.readout."),
    ("energy_ffn", "atoms"),
    ("force_ffn", "edges"),
    ("energy_norm", "atoms_norm"),
    ("force_norm", "edges_norm"),
    ("transformer_blocks.", "layer_"),
    ("output_projection.node_projection.0", "atoms"),
    ("output_projection.edge_projection.0", "edges"),
    ("output_projection.readout_norm.node_norm", "atoms_readout_norm"),
    ("output_projection.readout_norm.edge_norm", "edges_readout_norm"),
    ("output_projection.output_norm.node_norm", "atoms_norm"),
    ("output_projection.output_norm.edge_norm", "edges_norm"),
    ("force_direction_layer.final_output.0.weight", "weight"),
    ("force_direction_layer.ffn", "network"),
    ("force_magnitude_layer.ffn", "magnitude"),
    ("force_magnitude_layer.final_output.0", "scalar"),
    ("energy_layer.ffn", "network"),
    ("energy_layer.final_output.0", "scalar"),
    ("0.0.", "in."),
    ("1.0.", "out."),
)


def ours(published: dict[str, np.ndarray]) -> dict:
    """The published parameters under our names: kernels are [in, out] here."""
    params = {}
    for name, array in published.items():
        part, name = name.removeprefix("param/").split(".", 1)
        for before, after in RENAMED:
            name = name.replace(before, after)
        path = ({"b": "backbone", "f": "force_head", "e": "energy_head"}[part], *name.split("."))
        if path[-1] == "weight" and path != ("force_head", "weight"):
            path, array = (*path[:-1], "scale" if array.ndim == 1 else "kernel"), array.T
        params[path] = array
    return flax.traverse_util.unflatten_dict(params)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the published model's weights and outputs are not here")
def test_parity_with_the_published_code(x64):
    reference = dict(np.load(REFERENCE))
    sizes = np.bincount(reference["batch"])
    real = np.arange(sizes.max()) < sizes[:, None]
    positions, species = np.zeros((*real.shape, 3)), np.zeros(real.shape, int)
    positions[real], species[real] = reference["pos"], reference["z"]
    graph, _ = neighbours.build(positions, species, k=8, cutoff=4.0)
    model = GraphTransformer(**TINY, energy="mean")
    params = ours({name: array for name, array in reference.items() if name.startswith("param/")})
    apply = jax.jit(lambda params, graph: model.apply({"params": params}, graph, capture_intermediates=True))
    found, sown = apply(params, graph)
    between = flax.traverse_util.flatten_dict(sown["intermediates"])
    found_features = features(graph, 4.0, TINY["n_rbf"], TINY["n_degrees"])

    # The published slots are in another order: find each of ours there.
    first = np.concatenate([[0], np.cumsum(sizes)])[reference["batch"]]
    theirs, filled = reference["neighbor_list"], np.asarray(graph.mask)[real]
    wanted = np.asarray(graph.neighbours)[real] + first[:, None]
    assert (filled.sum(1) == reference["neighbor_mask"].sum(1)).all()
    places = (theirs[:, None, :] == wanted[..., None]) & reference["neighbor_mask"].astype(bool)[:, None, :]
    assert (places.sum(-1)[filled] == 1).all()
    slot = places.argmax(-1)

    def of_atoms(ours, name):
        np.testing.assert_allclose(np.asarray(ours)[real], reference[name], rtol=0, atol=1e-10, err_msg=name)

    def of_edges(ours, name):
        expected = np.take_along_axis(reference[name], slot[..., None], 1)[filled]
        np.testing.assert_allclose(np.asarray(ours)[real][filled], expected, rtol=0, atol=1e-10, err_msg=name)

    of_atoms(found_features.order, "boo")
    of_edges(found_features.radial, "rbf")
    of_edges(found_features.direction, "edge_direction")
    for path, atoms, edges in (
        (("backbone", "input"), "input_node", "input_edge"),
        (("backbone", "layer_0", "block"), "block0_node", "block0_edge"),
        (("backbone",), "node_features", "edge_features"),
    ):
        (pair,) = between[(*path, "__call__")]
        of_atoms(pair[0], atoms)
        of_edges(pair[1], edges)
    of_atoms(found.forces, "forces")
    np.testing.assert_allclose(found.energy, reference["energy"][:, 0], rtol=0, atol=1e-10)


def n_parameters(**fields) -> int:
    shape = jax.ShapeDtypeStruct
    graph = Graph(
        shape((1, 3, 3), float), shape((1, 3), int), shape((1, 3, 2), int), shape((1, 3, 2), bool),
        shape((1, 3, 2, 3), jnp.int8), shape((1, 3, 3), float),
    )  # fmt: skip
    params = jax.eval_shape(GraphTransformer(**fields).init, jax.random.key(0), graph)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_published_sizes():
    assert n_parameters(**PRESETS["6M"]) == n_parameters(**PRESETS["6M"], scan=True) == 6_137_222
    assert n_parameters(**PRESETS["6M"], output_multiplier=1) == 6_038_534


SMALL = {**PRESETS["cpu_0.1M"], "hidden": 16, "n_rbf": 8, "radial_features": 8, "order_features": 4, "n_degrees": 3}


def molecules(n=3, atoms=6):
    """Random points with a last atom out of reach of the others, and one of padding."""
    rng = np.random.default_rng(0)
    positions = rng.uniform(-2, 2, (n, atoms, 3))
    positions[:, -2] = 50.0
    species = rng.choice([1, 6, 8], (n, atoms))
    species[:, -1] = 0
    return jax.tree.map(jnp.asarray, neighbours.build(positions, species, k=4, cutoff=6.0)[0])


@pytest.fixture(scope="module")
def small():
    graph = molecules()
    params = jax.jit(GraphTransformer(**SMALL).init)(jax.random.key(0), graph)
    return graph, params


def turned(g, graph):
    return graph._replace(positions=graph.positions @ jnp.asarray(g.T, graph.positions.dtype))


@pytest.mark.parametrize("breaking", [0.0, 1.0])
def test_only_unequal_rows_of_the_head_break_equivariance(small, breaking):
    graph, params = small
    apply = jax.jit(lambda graph: GraphTransformer(**SMALL, breaking=breaking).apply(params, graph))
    g = np.asarray(es.so3.random(jax.random.key(3)))
    plain, of_turned = apply(graph), apply(turned(g, graph))
    np.testing.assert_allclose(of_turned.energy, plain.energy, rtol=1e-4)
    error = jnp.abs(of_turned.forces - plain.forces @ g.T).max() / jnp.abs(plain.forces).max()
    assert error < 1e-4 if breaking == 0 else error > 1e-2


def test_force_gain_multiplies_untrained_forces_and_nothing_else(small):
    graph, key = small[0], jax.random.key(2)
    whole, weak = (GraphTransformer(**SMALL, force_gain=gain) for gain in (1.0, 0.03))
    found, weaker = (jax.jit(model.init_with_output)(key, graph)[0] for model in (whole, weak))
    np.testing.assert_array_equal(weaker.energy, found.energy)
    assert jnp.abs(found.forces).max() > 0
    np.testing.assert_allclose(weaker.forces, 0.03 * found.forces, rtol=1e-5, atol=1e-7)


def test_an_atom_alone_and_padding_have_finite_values_and_gradients(small):
    graph, params = small
    model = GraphTransformer(**SMALL)

    def total(params, positions):
        found = model.apply(params, graph._replace(positions=positions))
        return found.energy.sum() + jnp.square(found.forces).sum(), found.forces

    (_, forces), slopes = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(params, graph.positions)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert (forces[:, -2:] == 0).all() and (jnp.abs(forces[:, :-2]) > 0).any()


def test_forces_of_the_energy_are_its_gradient_and_equivariant(small):
    graph, _ = small
    model = GraphTransformer(**SMALL, forces="gradient")
    params = jax.jit(model.init)(jax.random.key(0), graph)
    apply = jax.jit(lambda graph: model.apply(params, graph))
    forces = apply(graph).forces
    assert jnp.isfinite(forces).all() and jnp.abs(forces).max() > 0
    g = np.asarray(es.so3.random(jax.random.key(3)))
    np.testing.assert_allclose(apply(turned(g, graph)).forces, forces @ g.T, atol=1e-3 * jnp.abs(forces).max())
    np.testing.assert_allclose(forces.sum(1), 0, atol=1e-4 * jnp.abs(forces).max())


def test_the_order_of_atoms_does_not_matter(small):
    graph, params = small
    order = np.array([3, 1, 5, 0, 2, 4])
    shuffled, _ = neighbours.build(
        np.asarray(graph.positions)[:, order], np.asarray(graph.species)[:, order], k=4, cutoff=6.0
    )
    apply = jax.jit(lambda graph: GraphTransformer(**SMALL).apply(params, graph))
    one, other = apply(graph), apply(jax.tree.map(jnp.asarray, shuffled))
    np.testing.assert_allclose(other.energy, one.energy, rtol=1e-4)
    np.testing.assert_allclose(other.forces, one.forces[:, order], atol=1e-4 * jnp.abs(one.forces).max())


def test_the_action_on_graphs_turns_positions_alone(small):
    graph, _ = small
    g = np.asarray(es.so3.random(jax.random.key(3)))
    found = jax.tree.map(lambda act, leaf: act(jnp.asarray(g), leaf), TURNED, graph, is_leaf=callable)
    np.testing.assert_allclose(found.positions, turned(g, graph).positions, atol=1e-5)
    assert (found.neighbours == graph.neighbours).all() and (found.species == graph.species).all()
