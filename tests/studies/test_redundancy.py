"""Decoders of one orientation: on encoders whose symmetry is known, on tables made by hand, and as a command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import equiscale as es
from configs import denoise_voxels as config_of
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import PRESETS, VoxelUNet
from equiscale.parameters import by_path
from equiscale.studies import redundancy, redundancy_study
from equiscale.subspace import convolution, equivariant_part
from equiscale.training import checkpoints
from equiscale.training.run_folder import open_run
from equiscale.training.settings import Settings
from equiscale.training.state import init_state
from tests.commands import start
from tests.models.test_voxel_unet import random_params
from tests.tasks.test_denoise_voxels import make
from tests.training.test_parallel import mesh_of

KEY = jax.random.key(0)
FIELDS = {"n_channels": 4, "n_groups": 2, "channel_multipliers": (1,), "attention_levels": (False,), "n_blocks": 1}
NET = VoxelUNet(2, **FIELDS, dropout=0)
SETTINGS = Settings(steps=4, batch_size=4, learning_rate=1e-2)
TURNS = redundancy_study.rotations("z")


# --- the study on a network of one level, which averaged kernels make equivariant --------------------------------


def task_of(**changes):
    return redundancy.in_pose(make("none", model=NET, noise_sigma=0.0, evaluation_batch=3, **changes))


def study(task, drawn, folder):
    symmetric = jax.tree.map(
        lambda p: p if p.ndim < 5 else 5 * equivariant_part(p, es.octahedral.enumerate(), convolution()), drawn
    )
    encoders = {"equivariant": symmetric, "drawn": drawn}
    settings = {"start": symmetric, "own": "equivariant", "mesh": mesh_of(1)}
    return redundancy_study.measure(task, SETTINGS, encoders, TURNS, folder, **settings)


@pytest.fixture(scope="module")
def drawn():
    return random_params(NET)["params"]


@pytest.fixture(scope="module")
def found(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    return folder, study(task_of(), drawn, folder)


def test_an_exactly_equivariant_network_has_one_loss_at_all_turns(found):
    row = found[1]["encoders"]["equivariant"]["loss"][redundancy_study.OWN]
    np.testing.assert_allclose(row, row[0], rtol=1e-4)


def test_features_of_an_equivariant_encoder_turned_back_serve_any_decoder(found):
    for name, record in found[1]["encoders"].items():
        back = np.array(list(record["loss_turned_back"].values()))
        as_it_is = np.array([record["loss"][turn] for turn in TURNS])
        np.testing.assert_allclose(np.diag(back), np.diag(as_it_is), rtol=1e-5)
        ratio = back / np.diag(back)[:, None]
        of_decoder = as_it_is / np.diag(as_it_is)[:, None]
        assert np.abs(of_decoder - 1).max() > 1e-3, "decoders of one orientation have not learned the others"
        if name == "equivariant":
            np.testing.assert_allclose(ratio, 1, rtol=1e-4)
            assert record["index_turned_back"]["value"] == pytest.approx(1, abs=1e-4)
        else:
            assert np.abs(ratio - 1).max() > 1e-3


def test_decoders_differ_in_their_turns_alone(found, drawn):
    """All start alike, and each learned: on an equivariant encoder equally well."""
    losses = found[1]["encoders"]["equivariant"]["training_loss"]
    paths = [found[0] / f"equivariant-{i}.npz" for i in range(5)]
    curves = np.array([np.load(path)["training_loss"] for path in paths])
    np.testing.assert_allclose(curves[:, 0], curves[0, 0], rtol=1e-4)
    assert (curves[:, -1] < curves[:, 0]).all() and list(losses) == [*TURNS, redundancy_study.ALL]
    vectors = np.array([np.load(path)["vector"] for path in paths])
    assert len({vector.tobytes() for vector in vectors}) == 5


def test_what_was_trained_is_not_trained_again(found, drawn, tmp_path, monkeypatch):
    folder, before = found
    for path in folder.iterdir():
        if path.name != "drawn-2.npz":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    trained, real = [], redundancy.train_decoder
    monkeypatch.setattr(redundancy, "train_decoder", lambda *a, **k: trained.append(1) or real(*a, **k))
    assert study(task_of(), drawn, tmp_path) == before and trained == [1]


def test_molecules_that_turns_leave_as_they_are_need_one_decoder(drawn, tmp_path):
    """All atoms in the centre: s x = x, so that M[r, s] is the same for all s, whatever the network."""
    task = task_of()
    (rows,) = task.train
    centred = rows._replace(positions=jnp.zeros_like(rows.positions))
    validation = [batch._replace(positions=jnp.zeros_like(batch.positions)) for batch in task.validation]
    record = study(task._replace(train=[centred], validation=validation), drawn, tmp_path)["encoders"]["drawn"]
    for name in TURNS:
        np.testing.assert_allclose(record["loss"][name], record["loss"]["none"], rtol=1e-3)
    assert record["index"]["value"] == pytest.approx(1, abs=1e-3)


# --- its parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [VoxelUNet(2, **PRESETS["tiny"]), SteerableUNet(2, (2, 1), 3, 3)])
def test_every_parameter_is_in_one_half(model):
    params = jax.eval_shape(model.init, KEY, jnp.zeros((1, 2, 8, 8, 8)))["params"]
    encoder, decoder = redundancy.split_parameters(params)
    assert sorted([*encoder, *decoder]) == sorted(by_path(params)) and not encoder.keys() & decoder.keys()
    first = (
        {path.split("/")[0].split("_")[0] for path in encoder},
        {path.split("/")[0].split("_")[0] for path in decoder},
    )
    plain = isinstance(model, VoxelUNet)
    assert first == (({"stem", "down", "middle"}, {"up", "norm", "head"}) if plain else ({"down"}, {"up", "head"}))
    assert redundancy_study.can_turn_back(params) == plain
    with pytest.raises(ValueError, match="only a U-Net has an encoder"):
        redundancy.split_parameters({"head": {"kernel": jnp.ones(3)}, "up_0": {"kernel": jnp.ones(3)}})


def test_the_latent_depends_on_all_of_the_encoder_and_on_none_of_the_decoder():
    task = make(downsample="symmetric")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 8, 8, 8)), jnp.float32)
    shapes = jax.eval_shape(task.init, KEY)
    params = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape), a.dtype), shapes)
    options = {"xla_backend_optimization_level": 0}
    slope = jax.jit(jax.grad(lambda p: jnp.sin(task.latent.encode(p, x)).sum()), compiler_options=options)(params)
    encoder, decoder = redundancy.split_parameters(slope)
    assert not any(np.any(leaf) for leaf in decoder.values())
    assert all(np.any(leaf) for leaf in encoder.values())

    halves = redundancy.cut(task)

    def in_halves(params, x):
        vector = halves.vector_of(params)
        features, decode = halves.run(redundancy.split_parameters(params)[0], x, vector)
        assert {f.shape[1] for f in features} == {1, 4, 8}, "means over the grid, the coarse and the fine grid"
        return decode(vector, features) - task.predict(params, x)

    difference = jax.jit(in_halves, compiler_options=options)(params, x)
    assert jnp.abs(difference).max() < 1e-4 * jnp.abs(x).max()
    with pytest.raises(ValueError, match=r"\[1, 8, 4\] is no grid"):
        redundancy.turn_features(jnp.eye(3), [jnp.ones((1, 8, 4))])


def test_a_pose_is_that_of_the_turned_molecule_too():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(6, 3)) * [1, 3, 2]
    positions -= positions.mean(0)
    padded = np.concatenate([positions, np.zeros((2, 3))]).astype(np.float32)
    species = np.array([6, 8, 1, 1, 6, 7, 0, 0])
    pose = redundancy.principal_pose(padded, species)
    for g in np.asarray(es.so3.haar(3).draw(KEY)[:, 0]):
        np.testing.assert_allclose(redundancy.principal_pose(padded @ g.T, species), pose, atol=1e-5)
    moments = np.asarray(pose).T @ np.asarray(pose)
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-4)
    assert moments[0, 0] > moments[1, 1] > moments[2, 2] and (np.power(pose, 3).sum(0)[:2] > 0).all()
    turn = np.linalg.lstsq(positions, np.asarray(pose)[:6], rcond=None)[0]
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-4), "no mirror image"
    assert not pose[6:].any()


def test_indices_of_a_table():
    """Twice the loss off the diagonal, for molecules that differ by factors: the index is 2 in every resample."""
    factors = np.arange(1.0, 9)
    losses = (2 - np.eye(3))[..., None] * factors
    rows = {
        f"turn {i}": {"as_it_is": row, "back": row / row, "training_loss": np.ones(4)} for i, row in enumerate(losses)
    }
    rows[redundancy_study.ALL] = {"as_it_is": 1.5 * losses.min(0), "back": losses[0], "training_loss": np.ones(4)}
    record = redundancy_study.record(rows, KEY)
    for name, value in (("index", 2), ("index_turned_back", 1), ("shared", 1.5)):
        assert record[name]["value"] == pytest.approx(value) and record[name]["low"] == pytest.approx(value)
    np.testing.assert_allclose(record["loss"]["turn 1"], np.array([2, 1, 2]) * 4.5)
    noisy = losses + np.random.default_rng(0).uniform(0, 3, losses.shape)
    rows |= {f"turn {i}": rows["turn 0"] | {"as_it_is": row, "back": np.nan * row} for i, row in enumerate(noisy)}
    interval = redundancy_study.record(rows, KEY)
    mean = noisy.mean(-1)
    wanted = (mean.sum() - np.trace(mean)) / 6 / (np.trace(mean) / 3)
    assert interval["index"]["value"] == pytest.approx(wanted)
    assert interval["index"]["low"] < wanted < interval["index"]["high"]
    assert interval["index_turned_back"] is None and interval["loss_turned_back"] is None


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was stopped at step 4."""
    folder = tmp_path_factory.mktemp("redundancy")
    config = config_of.get_config("smoke")
    open_run(folder / "run", config.to_dict())
    model = VoxelUNet(len(config.grid.elements), **PRESETS[config.model.preset])
    shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, *(8,) * 4)))["params"]
    params = jax.tree.map(lambda a: jnp.full(a.shape, 0.01, a.dtype), shapes)
    task = make()._replace(init=lambda key: params)
    state = dataclasses.replace(init_state(task, optax.sgd(0.1), KEY, ema=False), step=jnp.asarray(4))
    with checkpoints.open_checkpoints(folder / "run") as saved:
        checkpoints.save(saved, state)
    return folder


@pytest.mark.slow  # what it writes is tested above
def test_the_command_writes_numbers_and_a_figure(run):
    result = start(f"--workdir={run / 'run'}", "--steps=2", "--molecules=4", module="redundancy")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "exactly equivariant networks have 1" in result.stdout and "untrained" in result.stdout
    made = json.loads((run / "run" / "redundancy" / "z" / "redundancy.json").read_text())
    assert made["rotations"] == ["none", "90° about z", "180° about z", "90° about -z"]
    assert made["settings"]["step"] == 4 and made["n_molecules"] == 4
    for name, record in made["encoders"].items():
        rows = [*made["rotations"], redundancy_study.ALL]
        assert list(record["loss"]) == rows + ([redundancy_study.OWN] if name == "trained" else [])
        assert record["index"]["low"] <= record["index"]["value"] <= record["index"]["high"]
    assert matplotlib.image.imread(run / "run" / "redundancy" / "z" / "redundancy.png").std() > 0.01
    other = start(f"--workdir={run / 'run'}", "--steps=3", "--molecules=4", module="redundancy")
    assert other.returncode != 0 and "steps: 2 in the folder, 3 asked for" in other.stderr
    assert "another --name" in other.stderr
