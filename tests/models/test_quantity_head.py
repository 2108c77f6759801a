"""Quantities from features of atoms: symmetry, sums over molecules, padding, and charges against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equiscale.data.neighbours import build
from equiscale.models.graph_transformer import GraphTransformer
from equiscale.models.quantity_head import QuantityHead, with_quantities
from equiscale.models.spherical_transformer import KINDS, SphericalTransformer
from equiscale.models.tensor_field import TensorField

ATOMS = np.array([6, 1, 8, 1, 7])
PLACES = np.random.default_rng(0).normal(scale=1.5, size=(5, 3))
FAR = np.array([50.0, -30.0, 20.0])
FIELDS = {"scalars": ("sum", "mean"), "n_vectors": 2, "n_tensors": 1, "width": 8}
TRANSFORMER = GraphTransformer(
    hidden=8, n_layers=1, n_heads=2, n_rbf=6, radial_features=8, order_features=4, species_features=4, n_degrees=3,
    cutoff=4.0, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
SPHERICAL = {"channels": 4, "n_layers": 1, "hidden": 8, "n_rbf": 6, "radial_width": 8, "neighbours": 4.0, "cutoff": 4.0}
MODELS = {
    "tensors": TensorField(multiplicities=(4, 3, 2), n_layers=1, radial_features=8, n_rbf=8, cutoff=4.0),
    "spherical": SphericalTransformer(**KINDS["tfn"] | SPHERICAL),
    "transformer": TRANSFORMER,
}


def graph_of(*molecules):
    """A batch of these (positions, species), padded to the longest."""
    width = max(len(species) for _, species in molecules)
    positions, species = np.zeros((len(molecules), width, 3)), np.zeros((len(molecules), width), int)
    for row, (x, z) in enumerate(molecules):
        positions[row, : len(z)], species[row, : len(z)] = x, z
    graph, _ = build(positions, species, k=5, cutoff=4.0)
    return jax.tree.map(jnp.asarray, graph)


GRAPH = graph_of((PLACES, ATOMS), (np.concatenate([PLACES - FAR, PLACES + FAR]), np.tile(ATOMS, 2)))
TURN = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix().astype(np.float32)


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """The name of a model, and its network as a function of a graph; parameters are far from the small start."""
    name = request.param
    network = with_quantities(MODELS[name], **FIELDS, charges=name != "transformer")
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), GRAPH)
    params = jax.tree.map(lambda a: rng.normal(scale=0.4, size=a.shape).astype(np.float32), shapes)
    apply = jax.jit(network.apply)
    return name, lambda graph: jax.device_get(apply(params, graph))


def test_scalars_stay_and_vectors_and_tensors_turn_unless_that_has_to_be_learned(case):
    name, apply = case
    found = apply(GRAPH)
    assert {kind: a.shape for kind, a in found.items()} == {
        "scalars": (2, 2),
        "vectors": (2, 2, 3),
        "tensors": (2, 1, 3, 3),
    }
    assert all(np.abs(a[0]).max() > 2e-4 for a in found.values())
    np.testing.assert_allclose(found["tensors"], found["tensors"].swapaxes(-1, -2), atol=1e-6)
    np.testing.assert_allclose(np.trace(found["tensors"], axis1=-1, axis2=-2), 0, atol=1e-5)
    turned = apply(GRAPH._replace(positions=np.asarray(GRAPH.positions) @ TURN.T))
    np.testing.assert_allclose(turned["scalars"], found["scalars"], rtol=1e-5, atol=1e-5)
    wanted = {"vectors": found["vectors"] @ TURN.T, "tensors": TURN @ found["tensors"] @ TURN.T}
    for kind, value in wanted.items():
        error = np.abs(turned[kind] - value)[0].max() / np.abs(value[0]).max()
        assert error > 0.05 if name == "transformer" else error < 1e-5, kind


def test_what_is_a_sum_adds_up_over_molecules_far_apart(case):
    _, apply = case
    found = apply(GRAPH)
    (total, mean), (of_both, mean_of_both) = found["scalars"].astype(float)
    assert of_both == pytest.approx(2 * total, rel=1e-4) and mean_of_both == pytest.approx(mean, rel=1e-4)
    for kind in ("vectors", "tensors"):
        one, both = found[kind]
        np.testing.assert_allclose(both, 2 * one, rtol=1e-3, atol=2e-3)  # charges times 60 angstrom cancel


def test_padding_changes_nothing(case):
    """Wherever padding atoms stand; how many there are, the test before tells."""
    _, apply = case
    found = apply(GRAPH)
    moved = apply(GRAPH._replace(positions=np.where(GRAPH.is_atom[..., None], GRAPH.positions, 7.0)))
    for kind, values in moved.items():
        np.testing.assert_array_equal(values, found[kind])


def test_two_opposite_charges_are_a_dipole_along_their_line_without_a_quadrupole():
    """Degree 0 gives the charges; without features of other degrees they are all there is."""
    species, places = np.array([1, 9]), np.array([[0.3, 0.5, -0.2], [0.9, -0.4, 0.4]])
    graph = graph_of((places, species))
    scalars = jnp.array([[[[0.7, -0.3]], [[-1.2, 0.4]]]])
    features = (scalars, jnp.zeros((1, 2, 3, 2)), jnp.zeros((1, 2, 5, 2)))
    head = QuantityHead(n_vectors=1, n_tensors=1, width=4, n_atoms=1.0, charges=True)
    params = jax.device_get(jax.jit(head.init)(jax.random.key(0), features, graph))
    found = jax.device_get(jax.jit(head.apply)(params, features, graph))
    inner = np.asarray(scalars[0, :, 0]) @ params["params"]["hidden"]["kernel"]
    charge = inner / (1 + np.exp(-inner)) @ params["params"]["vectors_charges"]["kernel"][:, 0]
    dipole = (charge[0] - charge[1]) / 2 * (places[0] - places[1])
    np.testing.assert_allclose(found["vectors"][0, 0], dipole, rtol=1e-5)
    assert np.abs(dipole).max() > 1e-4
    np.testing.assert_allclose(found["tensors"], 0, atol=1e-7)


@pytest.mark.parametrize(
    "model, fields, message",
    [
        ("shallow", {"n_tensors": 1}, "tensors are made of features of degree 2, and this model's end at degree 1"),
        ("tensors", {}, "no scalars, vectors or tensors"),
        ("tensors", {"scalars": ("max",)}, "scalars are pooled by 'max': give 'sum' or 'mean'"),
    ],
)
def test_what_cannot_be_predicted_is_named(model, fields, message):
    models = MODELS | {"shallow": SphericalTransformer(**KINDS["tfn"] | SPHERICAL, degree=1)}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(with_quantities(models[model], **fields).init, jax.random.key(0), GRAPH)


def test_scalars_alone_need_no_features_of_edges():
    """Nor the parameters of a force head."""
    for model in (TRANSFORMER, MODELS["tensors"]):
        assert with_quantities(model, scalars=("sum",)).model.forces == "gradient"
    shapes = jax.eval_shape(with_quantities(MODELS["tensors"], n_vectors=1).init, jax.random.key(0), GRAPH)["params"]
    assert not [name for name in shapes["model"] if "force" in name or "energy" in name]


def test_the_twin_of_the_transformer_shares_the_mean_of_its_rows():
    """So that vectors and tensors are equivariant, and the scalars what they were."""
    whole, twin = (with_quantities(TRANSFORMER.clone(breaking=b), **FIELDS) for b in (1.0, 0.0))
    head, same = whole.head, twin.head.clone(breaking=None)
    rng = np.random.default_rng(1)
    features = tuple(rng.normal(size=(2, 10, m, 3)).astype(np.float32) for m in (1, 3, 5))
    params = jax.jit(head.init)(jax.random.key(0), features, GRAPH)["params"]
    even = {n: jnp.broadcast_to(a.mean(0), a.shape) if n.endswith("rows") else a for n, a in params.items()}
    found = jax.jit(twin.head.apply)({"params": params}, features, GRAPH)
    for kind, value in jax.jit(head.apply)({"params": even}, features, GRAPH).items():
        np.testing.assert_allclose(found[kind], value, atol=1e-6)
    assert "vectors_rows" not in jax.eval_shape(same.init, jax.random.key(0), features, GRAPH)["params"]
