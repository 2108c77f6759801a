"""Force fields as a task: losses by hand, closed form against sampling, symmetry, and what cannot be loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from configs.force_field import get_config
from configs.spherical import KINDS
from equiscale import force_algebra
from equiscale.data.element_references import fit_scale
from equiscale.data.force_frames import from_records
from equiscale.data.stored_forces import write_forces
from equiscale.models.force_head import Prediction
from equiscale.models.graph_transformer import GraphTransformer
from equiscale.models.spherical_transformer import SphericalTransformer
from equiscale.models.tensor_field import TensorField
from equiscale.studies.curvature_study import dense
from equiscale.tasks import force_field, force_losses, force_sets
from equiscale.tasks.task import Streamed, first_of
from equiscale.training import loop
from equiscale.training.instruments import make_instruments
from equiscale.training.run_folder import read_metrics
from equiscale.training.settings import Settings
from tests.data.force_records import record, water
from tests.training.test_parallel import mesh_of
from tests.training.test_watching import documented, matched

RECORDS = [record(i, f"group {i % 5}") for i in range(10)] + [water(i) for i in range(6)]
FRAMES = from_records(RECORDS, "springs")
SCALE = fit_scale(FRAMES)
GRAPHS, EDGES = force_sets.graphs(FRAMES, SCALE, k=3, cutoff=6.0)
TRANSFORMER = GraphTransformer(
    hidden=8, n_layers=1, n_heads=2, n_rbf=6, radial_features=8, order_features=4, species_features=4, n_degrees=3,
    cutoff=6.0, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
TENSORS = TensorField(multiplicities=(4, 3), n_layers=1, radial_features=4, n_rbf=6)
MEASURE = es.so3.haar(4)


def make(model=TRANSFORMER, train=GRAPHS, **changes):
    settings = {"model": model, "scale": SCALE, "measure": MEASURE, "evaluation_batch": 8, "seed": 0}
    return force_field.make_task([train], GRAPHS, **settings | changes)


@pytest.fixture(scope="module")
def case():
    task = make()
    return task, jax.jit(task.init)(jax.random.key(0))


def test_frames_become_standardised_graphs():
    assert EDGES.atoms == 10 * 4 + 6 * 3 and GRAPHS.graph.positions.shape == (16, 4, 3)
    np.testing.assert_allclose(GRAPHS.energies.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.mean(GRAPHS.forces[GRAPHS.counted] ** 2)), 1, rtol=1e-5)
    assert np.abs(GRAPHS.graph.positions.sum(1)).max() < 1e-5, "at their centroid"


def numbers_of(prediction, rows):
    """Each loss term and error by loops over frames and atoms, in float64."""
    energies, norms, squares, components, cosines, per_atom = [], [], [], [], [], []
    for i in range(len(rows.weight)):
        gap = float(prediction.energy[i] - rows.energies[i])
        energies.append(gap)
        per_atom.append(abs(gap) / rows.graph.is_atom[i].sum())
        of_frame = []
        for a in np.flatnonzero(rows.counted[i]):
            f, y = (np.asarray(x[i, a], float) for x in (prediction.forces, rows.forces))
            norms.append(np.linalg.norm(f - y))
            components.append(np.abs(f - y).mean())
            cosines.append(f @ y / np.linalg.norm(f) / np.linalg.norm(y))
            of_frame.append(np.mean((f - y) ** 2))
        squares.append(np.mean(of_frame))
    energies = np.array(energies)
    losses = {
        "published": (np.abs(energies).mean(), np.mean(norms)),
        "squares": ((energies**2).mean(), np.mean(squares)),
    }
    errors = {
        "force_mae": SCALE.force_std * np.mean(components),
        "force_l2": SCALE.force_std * np.mean(norms),
        "force_cosine": np.mean(cosines),
        "energy_mae": SCALE.std * np.abs(energies).mean(),
        "energy_per_atom_mae": SCALE.std * np.mean(per_atom),
    }
    return losses, errors


def test_losses_and_errors_against_loops():
    held = GRAPHS._replace(counted=GRAPHS.counted & (np.arange(4) != 1))
    rng = np.random.default_rng(0)
    prediction = Prediction(rng.normal(size=16).astype(np.float32), rng.normal(size=(16, 4, 3)).astype(np.float32))
    losses, errors = numbers_of(prediction, held)
    for name, wanted in losses.items():
        np.testing.assert_allclose(force_losses.LOSSES[name](prediction, held), wanted, rtol=1e-5)
    parts = [force_losses.error_moments(*jax.tree.map(lambda a, s=s: a[s], (prediction, held)), SCALE) for s in
             (slice(0, 10), slice(10, 16))]  # fmt: skip
    found = force_losses.error_record(parts)
    for name, wanted in errors.items():
        assert found[name] == pytest.approx(wanted, rel=1e-4), name
        assert found[f"{name}_stderr"] > 0


def test_a_perfect_prediction_has_no_loss_and_a_finite_gradient():
    for loss in force_losses.LOSSES.values():
        perfect = Prediction(jnp.asarray(GRAPHS.energies), jnp.asarray(GRAPHS.forces))
        assert float(sum(loss(perfect, GRAPHS))) == 0
        slope = jax.grad(lambda p, loss=loss: sum(loss(p, GRAPHS)))(perfect)
        # A norm has no slope at zero; what must not happen is NaN from padding.
        assert jnp.isfinite(slope.forces[~GRAPHS.counted]).all() and not slope.forces[~GRAPHS.counted].any()


def test_the_closed_form_is_what_sampling_estimates(case):
    task, params = case
    (score,) = make_instruments(("head",), task, mesh_of(1)).values()
    exact = score(params)
    sampled = task._replace(symmetry=es.Symmetry(es.so3.haar(200), task.symmetry.act_in, task.symmetry.act_out))
    d = sum(jax.jit(sampled.evaluate)(params, batch) for batch in task.validation)
    for part in ("total", "mean", "equiv"):
        error = float(getattr(d, f"{part}_stderr"))
        assert abs(exact[part] - float(getattr(d, part))) < 0.3 * error + 1e-6, (part, error)
    assert exact["percent"] == pytest.approx(float(d.percent), rel=0.03) and exact["percent"] > 1
    assert exact["bounds_hold"] and exact["lowest"] <= exact["effective"] <= exact["highest"]
    assert 1 / 3 < exact["share_of_largest"] <= 1 and exact["purity"] > 0


def test_curvature_is_that_of_the_closed_form_in_the_range_of_its_hessians(case):
    task, params = case
    only = ["force_head/weight", "force_head/network/*"]
    found = dense(task, params, only=only, n_molecules=3, learning_rate=1e-3, half_width=1)
    batch = first_of(task.train[0], 3)
    moments = TRANSFORMER.apply({"params": params}, batch.graph, method="force_moments")
    exact = force_algebra.decompose(*moments, batch.forces, mask=batch.counted)
    c = task.components(params, batch, only=only)
    assert c.measure == "SO(3) in closed form" and c.n == 3 * 8 + 8 * 16 + 16 + 16 * 8 + 8
    for part in ("total", "mean", "equiv"):
        np.testing.assert_allclose(found.plane.losses[part][1, 1], getattr(exact, part), rtol=1e-5)
        # Inside, 16 wide; 16 + 1 rows of 8 in the last layer, of which three and three directions are not in the range.
        assert found.spectra[part].rank <= c.n - (17 - 3) * (8 - 3) < len(found.spectra[part].eigenvalues) == c.n


def test_the_twin_has_the_same_mean_loss_and_no_equivariance_error(case):
    task, params = case
    twin = make(TRANSFORMER.clone(breaking=0.0))
    whole, of_twin = (make_instruments(("head",), t, mesh_of(1))["head"](params) for t in (task, twin))
    assert of_twin["mean"] == pytest.approx(whole["mean"], rel=1e-5) and of_twin["percent"] < 1e-9
    assert of_twin["effective"] is None or of_twin["deviation"] < 1e-12
    assert float(jax.jit(twin.evaluate)(params, twin.validation[0]).percent) < 1e-7


def test_tensor_fields_are_equivariant_and_have_no_head_score():
    task = make(TENSORS)
    params = jax.jit(task.init)(jax.random.key(0))
    assert float(jax.jit(task.evaluate)(params, task.validation[0]).percent) < 1e-7
    with pytest.raises(ValueError, match="instrument 'head' is none of"):
        make_instruments(("head",), task, mesh_of(1))


def test_training_frames_turn_with_their_forces(case):
    task, params = case
    turned = make(augmentation="haar")
    rows = jax.jit(turned.sample)(GRAPHS, jax.random.key(0))
    g = jax.vmap(es.so3.random)(jax.random.split(jax.random.key(0), 16))
    np.testing.assert_allclose(rows.forces, jnp.einsum("nij,naj->nai", g, GRAPHS.forces), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(rows.graph.positions, axis=-1),
                               np.linalg.norm(GRAPHS.graph.positions, axis=-1), atol=1e-5)  # fmt: skip
    plain = jax.jit(task.sample)(GRAPHS, jax.random.key(0))
    np.testing.assert_array_equal(plain.forces, GRAPHS.forces)
    loss = jax.jit(task.loss)
    assert not np.isclose(loss(params, rows, jax.random.key(1)), loss(params, plain, jax.random.key(1)), rtol=1e-4)


@pytest.mark.parametrize("model", [TRANSFORMER, TENSORS], ids=["transformer", "tensors"])
def test_training_goes_on_descends_and_documents_its_rows(model, tmp_path):
    task = make(model, loss="squares", energy_weight=1.0, force_weight=1.0)
    names = ("errors", "head") if model is TRANSFORMER else ("errors",)
    settings = Settings(steps=30, batch_size=16, learning_rate=3e-2, evaluations=1)
    mesh = mesh_of(1)
    loop.train(task, settings, tmp_path, title="t", mesh=mesh, instruments=make_instruments(names, task, mesh))
    first, *_, last = read_metrics(tmp_path)
    assert last["total"] < 0.8 * first["total"]
    assert last["errors"]["force_mae"] < first["errors"]["force_mae"]
    patterns = [name for name in documented() if name.startswith(("errors.", "head."))]
    found = matched({name: last[name] for name in names}, patterns)
    assert found == {p for p in patterns if p.startswith(tuple(f"{name}." for name in names))}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "mse"}, "loss 'mse' is none of published, squares"),
        ({"augmentation": "spin"}, "augmentation 'spin' is none of none, cube"),
        ({"force_weight": 0.0}, "give a positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_models_by_preset():
    config = get_config("6M")
    assert force_field.model_of(config).hidden == 128 and force_field.model_of(config).cutoff == 12.0
    with pytest.raises(ValueError, match=r"model preset '6m' is none of cpu_0\.008M"):
        force_field.make_model("6m", cutoff=6.0)
    config.model.preset = "tensor_4M"
    assert force_field.model_of(config).forces == "direct"
    config.model.remat = True
    with pytest.raises(ValueError, match="model preset 'tensor_4M' has no remat"):
        force_field.model_of(config)
    with pytest.raises(ValueError, match="has no breaking"):
        force_field.make_model("tensor_cpu_0.02M", cutoff=6.0, breaking=0.0)


def test_fields_of_spherical_models_take_the_place_of_the_presets():
    config = get_config("cpu")
    config.model.preset = "est_exact_cpu_0.02M"
    usual = force_field.model_of(config)
    assert (usual.points, usual.spread, usual.top_k) == (94, 2.0, None)
    given = {"points": 32, "spread": 0.0, "top_k": 2, "n_steerable": 3, "bypass": False}
    config.update_from_flattened_dict({f"model.spherical.{name}": value for name, value in given.items()})
    model = force_field.model_of(config)
    expected = given | {"spread": None, "channels": usual.channels, "rule": usual.rule}
    assert {name: getattr(model, name) for name in expected} == expected
    config.model.spherical.top_k = 0
    assert force_field.model_of(config).top_k is None
    assert set(KINDS) <= set(SphericalTransformer.__dataclass_fields__)
    config.model.preset = "cpu_0.1M"
    with pytest.raises(
        ValueError, match=r"model\.spherical\.bypass is set, and model preset 'cpu_0\.1M' is no spherical"
    ):
        force_field.model_of(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("forces") / "set"
    write_forces(path, RECORDS, "springs")
    return path


def config_of(folder, **fields):
    config = get_config("smoke")
    config.data.folder, config.data.validation, config.evaluation.molecules = str(folder), 0.3, 100
    config.update_from_flattened_dict(fields)
    return config


def test_a_set_on_disk_is_split_by_molecule_and_streams_the_same_graphs(folder):
    sets = force_sets.load(config_of(folder, **{"data.buckets": 2}), k=3, cutoff=6.0)
    n_train = sum(s.n for s in sets.train)
    assert all(isinstance(s, Streamed) for s in sets.train) and n_train + len(sets.validation.weight) == 16
    assert "springs: 16 frames in" in sets.reports[0] and "eV RMS" in sets.reports[2]
    rows = sets.train[0].read(np.array([0, 2]))
    assert rows.graph.positions.shape[1] in (3, 4) and np.isfinite(rows.forces).all()
    twice = sets.train[0].read(np.array([2]))
    np.testing.assert_array_equal(twice.forces[0], rows.forces[1])
    part = force_sets.load(config_of(folder, **{"data.fraction": 0.5}), k=3, cutoff=6.0)
    assert sum(s.n for s in part.train) == round(n_train / 2)
    assert (part.scale.std, part.scale.force_std) == (sets.scale.std, sets.scale.force_std)  # so that losses compare


def test_an_element_that_training_frames_lack_is_named():
    odd = [r._replace(elements=np.array([16, 6, 1, 1]), group="sulfur") for r in RECORDS[:1]]
    frames = from_records(odd, "sulfur")
    with pytest.raises(ValueError, match="no reference energy of S"):
        force_sets.graphs(frames, SCALE, k=3, cutoff=6.0)


def test_a_rare_element_is_referenced_where_it_is_trained_on_and_left_out_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(force_sets, "AT_ONCE", 4)  # fewer than there are: the rare one is not among them
    rare = RECORDS[0]._replace(elements=np.array([16, 6, 1, 1]), group="sulfur")
    write_forces(tmp_path / "set", [*RECORDS, rare], "springs")
    trained = set()
    for seed in range(12):
        sets = force_sets.load(config_of(tmp_path / "set", seed=seed), k=3, cutoff=6.0)
        known = 16 in sets.scale.references.elements
        assert any("(1 left out for S, which no training frame holds)" in r for r in sets.reports) != known
        assert sum(s.n for s in sets.train) + len(sets.validation.weight) == 16 + known
        trained.add(known)
    assert trained == {True, False}
    with pytest.raises(ValueError, match="every validation frame has S, which no training frame holds: train on more"):
        force_sets.of_known_elements(from_records([rare], "springs"), SCALE)
