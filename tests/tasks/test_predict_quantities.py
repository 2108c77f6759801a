"""Quantities as a task: losses by hand, symmetry, turned labels, sets in memory and on disk, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from configs.predict_quantities import get_config
from equiscale.data.molecules import from_records
from equiscale.data.stored_molecules import write_molecules
from equiscale.tasks import predict_quantities, quantity_sets
from equiscale.tasks.property_targets import describe, quantities_of, standard_of, targets_of, with_properties
from equiscale.tasks.task import Streamed
from equiscale.training import loop
from equiscale.training.instruments import make_instruments
from equiscale.training.run_folder import read_metrics
from equiscale.training.settings import Settings
from tests.models.test_quantity_head import MODELS
from tests.training.test_parallel import mesh_of

NAMES = ("size", "dipole", "radius_of_gyration", "quadrupole")


def records(n=24):
    """Random places, in various sizes: shapes for tests, no chemistry."""
    rng = np.random.default_rng(0)
    for i in range(n):
        size = 3 + i % 3
        yield f"random {i}", rng.choice([1, 6, 8], size), rng.normal(scale=1.5, size=(size, 3))


def columns(molecules):
    """Quantities of the atoms, with their numbers as charges; that of the first is not known."""
    real = molecules.species > 0
    x = molecules.positions - (molecules.positions.sum(1) / real.sum(1)[:, None])[:, None]
    charge = molecules.species * 0.3
    second = np.einsum("na,nai,naj->nij", charge, x, x)
    trace = np.trace(second, axis1=1, axis2=2)
    size = np.count_nonzero(real, axis=1).astype(float)
    size[0] = np.nan
    quadrupole = second - trace[:, None, None] / 3 * np.eye(3)
    return {"size": size, "dipole": np.einsum("na,nai->ni", charge, x), "quadrupole": quadrupole, "second": second}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantities") / "set"
    return write_molecules(folder, records(), "random points", lambda name, numbers: name, columns)[0]


@pytest.fixture(scope="module")
def labelled(stored):
    """The molecules in memory as graphs, and what their labels are."""
    molecules, values, report = with_properties(stored.subset(slice(None)), NAMES)
    assert report.reasons == {"without a known size": 1}
    standard = standard_of(values)
    rows, _ = quantity_sets.graphs(molecules, targets_of(values, standard), k=4, cutoff=4.0)
    return rows, describe(quantities_of(molecules, NAMES), standard)


def make(labelled, name="tensors", **changes):
    rows, properties = labelled
    network = predict_quantities.network_of(MODELS[name], properties, ("size",), width=8)
    settings = {"properties": properties, "model": network, "measure": es.so3.haar(3), "evaluation_batch": 12}
    return predict_quantities.make_task([rows], rows, **settings | {"seed": 0} | changes)


def random_parameters(task):
    """Far from the small start, and quicker than to draw them as a run does."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree.map(lambda a: rng.normal(scale=0.4, size=a.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("model", ["tensors", "transformer"])
def test_an_equivariant_model_owes_nothing_to_rotations_and_another_does(labelled, model):
    task = make(labelled, model)
    d = jax.jit(task.evaluate)(random_parameters(task), task.validation[0])
    assert d.percent < 1e-7 if model == "tensors" else d.percent > 1e-3
    assert d.n_examples == 12 and len(task.validation) == 2 and task.validation[1].weight.sum() == 11


def test_losses_against_loops(labelled):
    rows, properties = labelled
    assert [(p.name, p.kind) for p in properties] == [
        ("size", "scalar"),
        ("dipole", "vector"),
        ("radius_of_gyration", "scalar"),
        ("quadrupole", "tensor"),
    ]
    rng = np.random.default_rng(1)
    prediction = {kind: rng.normal(size=y.shape).astype(np.float32) for kind, y in rows.labels.items()}
    distances, components = [], []
    for p in properties:
        error = np.asarray(p.of(prediction), float) - np.asarray(p.of(rows.labels), float)
        distances.append(np.linalg.norm(error, axis=1))
        components.append(error**2)
    absolute, squares = (jax.jit(predict_quantities.LOSSES[name]) for name in ("absolute", "squares"))
    assert float(absolute(prediction, rows.labels)) == pytest.approx(np.mean(distances), rel=1e-5)
    assert float(squares(prediction, rows.labels)) == pytest.approx(np.concatenate(components, 1).mean(), rel=1e-5)
    slope = jax.jit(jax.grad(absolute))(jax.tree.map(jnp.asarray, rows.labels), rows.labels)
    assert all(not a.any() for a in jax.tree.leaves(slope)), "where all is right it is 0, not NaN"


def test_training_molecules_turn_with_their_labels(labelled):
    """Quantities of the turned positions are the turned labels."""
    rows, properties = labelled
    turned = jax.device_get(jax.jit(make(labelled, augmentation="haar").sample)(rows, jax.random.key(0)))
    assert np.abs(turned.graph.positions - rows.graph.positions).max() > 0.5
    records = [(str(i), z[z > 0], x[z > 0]) for i, (x, z) in enumerate(zip(*turned.graph[:2], strict=True))]
    wanted = columns(from_records(records, ""))
    for p in properties:
        if p.kind != "scalar":
            value = wanted[p.name].reshape(len(records), -1)
            np.testing.assert_allclose(p.scale * p.of(turned.labels), value, atol=1e-4)
    np.testing.assert_array_equal(turned.labels["scalars"], rows.labels["scalars"])


def config_of(stored, **fields):
    config = get_config("smoke")
    config.data.folder, config.properties = str(stored.set.folder), NAMES
    config.training.batch_size = 2
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.slow  # its parts are tested here and in tests/data
def test_the_smoke_run_trains_on_a_set_on_disk(stored, tmp_path):
    experiment = predict_quantities.from_config(config_of(stored, **{"data.buckets": 1}), "none")
    task = experiment.task
    assert all(isinstance(s, Streamed) for s in task.train) and "24 molecules in" in experiment.reports[0]
    assert set(experiment.constants) == set(NAMES) and experiment.constants["radius_of_gyration"]["unit"] == "Å"
    assert experiment.model.head.scalars == ("sum", "sum")
    settings, mesh = Settings(steps=20, batch_size=8, learning_rate=2e-2, evaluations=1), mesh_of(1)
    instruments = make_instruments(("scores",), task, mesh)
    loop.train(task, settings, tmp_path, title="t", mesh=mesh, instruments=instruments)
    first, *_, last = read_metrics(tmp_path)
    assert last["total"] < first["total"] and last["percent"] > 1e-3, "equivariance has to be learned"
    assert set(last["properties"]) == set(NAMES) and last["properties"]["size"]["percent"] < 1e-6
    assert set(instruments) == {"properties"}, "no attention at points of a sphere"


def test_streamed_molecules_are_those_in_memory(stored):
    sets = quantity_sets.load(config_of(stored, **{"data.buckets": 2}), k=4, cutoff=4.0)
    assert sum(s.n for s in sets.train) + len(sets.validation.weight) <= 23
    rows = sets.train[-1].read(np.array([1, 0]))
    assert rows.graph.positions.shape == (2, 5, 3) and rows.labels["tensors"].shape == (2, 1, 3, 3)
    np.testing.assert_allclose(rows.graph.positions.sum(1), 0, atol=1e-5)
    # The labels are of these molecules: their dipoles, computed again from their atoms.
    again = np.einsum("na,nai->ni", rows.graph.species * 0.3, rows.graph.positions)
    np.testing.assert_allclose(sets.standard.scale["dipole"] * rows.labels["vectors"][:, 0], again, atol=1e-4)


def test_a_part_of_the_molecules_has_the_labels_of_the_whole(stored):
    """In the same units, so that losses compare."""
    whole, part = (
        quantity_sets.load(config_of(stored, **{"data.buckets": 1, "data.fraction": f}), k=4, cutoff=4.0)
        for f in (1.0, 0.5)
    )
    assert part.standard == whole.standard
    rows = [sets.train[0].read(np.arange(sets.train[0].n)) for sets in (whole, part)]
    assert len(rows[1].graph.species) == round(len(rows[0].graph.species) / 2)
    pairs = zip(rows[0].graph.positions, rows[0].labels["vectors"], strict=True)
    known = {positions.tobytes(): dipole for positions, dipole in pairs}
    for positions, dipole in zip(rows[1].graph.positions, rows[1].labels["vectors"], strict=True):
        np.testing.assert_array_equal(known[positions.tobytes()], dipole)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"properties": ("dipole", "colour")}, "dipole, colour: give some of .*dipole, quadrupole"),
        ({"properties": ("logp",)}, r"logp of molecules on disk must be stored .* --properties=logp"),
        ({"properties": ("second",)}, "second has traces up to .*: store its symmetric part without the trace"),
        ({"intensive": ("dipol",)}, "intensive: dipol is none of size, dipole"),
        ({"loss": "mse"}, "loss 'mse' is none of absolute, squares"),
        ({"model.preset": "tfn"}, "model preset 'tfn' is none of"),
    ],
)
def test_what_does_not_fit_is_named(stored, fields, message):
    with pytest.raises(ValueError, match=message):
        predict_quantities.from_config(config_of(stored, **fields), "none")


def test_a_head_for_other_quantities_is_refused(labelled):
    network = predict_quantities.network_of(MODELS["tensors"], labelled[1][:2])
    with pytest.raises(ValueError, match=r"the model predicts .*'tensors': 0.* and the labels are .*'tensors': 1"):
        make(labelled, model=network)


@pytest.mark.parametrize("preset", ["qm9_a", "qm9_b"])
def test_published_recipes(preset):
    """Section 8.1: 300 or 600 epochs of 110,000 molecules, 5 of them to warm up, the rate ending at 1e-6."""
    config = get_config(preset)
    epochs, batch = (300, 128) if preset == "qm9_a" else (600, 64)
    assert config.training.steps * batch == pytest.approx(epochs * 110_000, rel=1e-5)
    assert config.training.warmup * batch == pytest.approx(5 * 110_000, rel=1e-3)
    assert config.training.learning_rate * config.training.final_rate == pytest.approx(1e-6)
    model = predict_quantities.model_of(config)
    assert (model.n_layers, model.degree, model.cutoff, model.n_rbf) == (6, 2, 5.0, 128)
