"""The latent study on a run folder of an untrained network, and on encoders whose symmetry is known."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import equiscale as es
from configs.denoise_voxels import get_config as denoise_voxels_config
from configs.quickstart import get_config
from equiscale.data.voxels import Grid
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.studies import latent_measures as measures
from equiscale.studies import latent_study as study
from equiscale.studies import latents_by_arm
from equiscale.tasks import denoise_voxels
from equiscale.tasks.molecule_sets import Structures
from equiscale.training import checkpoints
from equiscale.training.run_folder import open_run
from equiscale.training.state import init_state
from experiments.config import read_run
from tests.commands import start

KEY = jax.random.key(0)
X = np.asarray(jax.random.normal(KEY, (30, 2, 4, 4, 4)))


def smoke_config():
    config = get_config("smoke")
    config.evaluation.batch_size = 6
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as the quickstart leaves it, its networks untrained but for a change of scale at step 4."""
    folder = tmp_path_factory.mktemp("latents")
    config = smoke_config()
    open_run(folder / "run", config.to_dict())
    task = denoise_voxels.from_config(config, "none").task
    state = init_state(task, optax.sgd(0.1), KEY, ema=False)
    for arm in config.arms.values():
        with checkpoints.open_checkpoints(folder / "run" / arm, keep=None) as saved:
            for step in (0, 1, 4):
                params = jax.tree.map(lambda a, step=step: a * (1 + step / 4), state.params)
                checkpoints.save(saved, dataclasses.replace(state, step=jnp.asarray(step), params=params))
    return folder / "run"


@pytest.mark.slow  # what it computes is tested in test_latents
def test_the_command_writes_numbers_and_figures(run):
    result = start(f"--workdir={run}", "--steps=0,4", "--molecules=20", module="latents")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "equivariant?" in result.stdout and "untrained" in result.stdout and "±" in result.stdout
    found = json.loads((run / "latents.json").read_text())
    assert found["shape"] == [8, 4, 4, 4] and found["molecules"]["n"] == 20
    assert [(row["folder"], row["step"]) for row in found["rows"]] == [
        (arm, step) for arm in ("cube", "none") for step in (0, 4)
    ]
    for row in found["rows"]:
        for test in ("equivariance", "invariance"):
            for kind in ("raw", "centred"):
                summary = row[test][kind]
                assert list(summary) == ["different", *measures.AXIS_TURNS, "all"]
                assert all(-1 <= s["q05"] <= s["median"] <= s["q95"] <= 1 + 1e-6 for s in summary.values())
                assert 0 <= summary["all"]["auc"] <= 1
        assert row["lie"]["rate"] > 0 and row["lie"]["n_examples"] == 20
        for kind in ("pooled", "spatial"):
            assert all(fit["error"] > 0 for fit in row["representation"][kind]["fits"].values())
            assert all(p["r2"] <= 1 for p in row["probes"][kind].values())
    same = [{k: v for k, v in found["rows"][i].items() if k not in ("arm", "folder")} for i in (0, 2)]
    assert same[0] == same[1]  # both arms start from one network
    for name in ("latents", "latents_training"):
        assert matplotlib.image.imread(run / f"{name}.png").std() > 0.01


@pytest.mark.parametrize(
    "latent, words", [("*/midle_2", "VoxelUNet/middle_2"), ("*/middle_1/attention/projection", "which is no grid")]
)
def test_a_latent_that_is_not_there_or_no_grid_is_refused(run, latent, words):
    with pytest.raises(ValueError, match=words):
        study.measure_run(run, read_run(run), latent=latent, n_molecules=10, steps=[0])


def test_what_is_not_in_the_folder_is_named(run, tmp_path):
    config = read_run(run)
    assert [c.step for c in study.find_checkpoints(run, config, only=["cube"])] == [0, 1, 4]
    assert [c.last for c in study.find_checkpoints(run, config, steps=[0, 1])] == [False, True] * 2
    with pytest.raises(ValueError, match="no arm haar; there are cube, none"):
        study.find_checkpoints(run, config, only=["haar"])
    with pytest.raises(ValueError, match="no checkpoint of step 3; there are 0, 1, 4"):
        study.find_checkpoints(run, config, steps=[3])
    with pytest.raises(FileNotFoundError, match="train this run first"):
        study.find_checkpoints(tmp_path, config)
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        read_run(tmp_path)
    config.arm = "cube"
    with pytest.raises(ValueError, match="is the arm 'cube' of a run"):
        study.find_checkpoints(run / "cube", config)


def test_steps_are_even_in_their_logarithm():
    assert study.log_spaced([0, 1, 2, 6, 14, 35, 85, 206, 500]) == [0, 1, 6, 85, 500]
    assert study.log_spaced([480, 500]) == [480, 500]
    assert study.log_spaced([0]) == [0]


# --- encoders whose symmetry is known ----------------------------------------------------------------------------


def turned_latents(symmetric):
    """Latents of X turned by all of CUBE, from one convolution whose kernel is averaged over the cube or is not."""
    kernel = jax.random.normal(jax.random.key(1), (4, 2, 3, 3, 3))
    if symmetric:
        kernel = sum(es.grid(g, kernel) for g in measures.CUBE) / 24
    phi = jax.jit(lambda _, g, x: jax.nn.relu(jax.lax.conv(es.grid(g, x), kernel, (1, 1, 1), "SAME")))
    return measures.encode_turned(phi, None, [X[:20], X[20:]], len(X), measures.CUBE)


def test_an_equivariant_encoder_has_cosines_of_one_and_a_representation():
    z = turned_latents(True)
    for record in measures.cosines(z, KEY).values():
        for kind in ("raw", "centred"):
            assert record[kind]["all"]["q05"] == pytest.approx(1, abs=1e-4)
            assert record[kind]["all"]["auc"] == 1
    found = measures.representations(measures.coarse(z), KEY)
    assert max(fit["error"] for fit in found["fits"].values()) < 1e-6
    assert max(found["homomorphism_defect"].values()) < 1e-3
    assert found["fits"]["x 90°"]["error_identity"] > 0.1


def test_another_encoder_has_not():
    found = measures.cosines(turned_latents(False), KEY)
    assert found["equivariance"]["centred"]["all"]["median"] < 0.5


def test_latents_of_a_steerable_network_turn_by_their_irreps():
    model = SteerableUNet(n_elements=2, multiplicities=(2, 2), n_levels=2, kernel_size=3)
    params = jax.jit(model.init)(KEY, X[:1])["params"]
    name = study.default_latent(model)
    phi = measures.make_encoder(lambda params, x: model.apply({"params": params}, x), name)
    turned = jax.jit(lambda params, g, x: phi(params, es.grid(g, x)))
    z = measures.encode_turned(turned, params, [X], len(X), measures.CUBE[:10])
    right = measures.cosines(z, KEY, study.latent_action(model, name))["equivariance"]
    wrong = measures.cosines(z, KEY)["equivariance"]
    assert right["raw"]["all"]["q05"] == pytest.approx(1, abs=1e-4)
    assert wrong["raw"]["all"]["median"] < 0.9
    with pytest.raises(ValueError, match=r"choose a whole block, such as \*/down_1"):
        study.latent_action(model, "*/down_0/conv1")


def test_a_single_run_is_an_arm_of_its_own(tmp_path, run):
    """A folder as experiments.train leaves it."""
    config = denoise_voxels_config("smoke")
    open_run(tmp_path, config.to_dict())
    shutil.copytree(run / "cube" / "checkpoints", tmp_path / "checkpoints")
    found = study.find_checkpoints(tmp_path, config)
    assert [(c.arm, c.folder, c.step, c.last) for c in found] == [
        ("augmentation cube", tmp_path, step, step == 4) for step in (0, 1, 4)
    ]
    config.task = "another"
    with pytest.raises(ValueError, match="this run's task is another"):
        study.find_checkpoints(tmp_path, config)


def test_runs_of_several_arms_are_merged(tmp_path):
    arms = {}
    for arm, channels in (("small", 8), ("large", 16)):
        arms[arm] = [tmp_path / arm]
        arms[arm][0].mkdir()
        record = {"shape": [channels, 2, 2, 2], "rows": [{"arm": "augmentation cube", "step": 0}]}
        (arms[arm][0] / "latents.json").write_text(json.dumps(record))
    found = latents_by_arm.merged(arms, "latents.json")
    assert [row["arm"] for row in found["rows"]] == ["small", "large"]
    assert found["shapes"] == [[8, 2, 2, 2], [16, 2, 2, 2]]


def test_the_cube_is_listed_once_axis_turns_first():
    assert measures.CUBE.shape == (24, 3, 3) and len(np.unique(measures.CUBE.reshape(24, 9), axis=0)) == 24
    np.testing.assert_array_equal(measures.CUBE[1:10], list(measures.AXIS_TURNS.values()))


def test_coarse_latents_turn_as_fine_ones():
    z = X[:, None]
    g = measures.AXIS_TURNS["y 90°"]
    np.testing.assert_allclose(measures.coarse(es.grid(g, z)), es.grid(g, measures.coarse(z)), atol=1e-6)
    np.testing.assert_allclose(measures.coarse(z)[0, 0, 1, 0, 1, 0], X[0, 1, :2, 2:, :2].mean(), atol=1e-6)


def test_probe_targets_are_those_of_the_turned_molecule():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(3, 5, 3)).astype(np.float32)
    species = np.array([[6, 8, 1, 1, 0], [7, 6, 6, 6, 8], [6, 1, 1, 1, 1]])
    positions[species == 0] = 0
    data = Structures(jnp.asarray(positions), jnp.asarray(species), jnp.arange(3), jnp.ones(3))
    targets = measures.probe_targets(data)
    assert targets["heavy atoms"][:, 7, 0].tolist() == [2, 5, 1]
    assert targets["N and O atoms"][:, 0, 0].tolist() == [1, 2, 0]
    i = 5
    r = positions[0, :4] @ measures.CUBE[i].T
    np.testing.assert_allclose(targets["vector to N and O"][0, i], r[1], atol=1e-6)
    moments = r.T @ r / 4
    np.testing.assert_allclose(targets["second moments"][0, i, 3:], moments[[0, 0, 1], [1, 2, 2]], atol=1e-6)
    np.testing.assert_allclose(targets["second moments"][..., :3].sum(-1), 0, atol=1e-6)
    np.testing.assert_allclose(targets["radius of gyration"][0, i, 0] ** 2, np.trace(moments), rtol=1e-6)


def test_the_lie_derivative_is_what_a_small_turn_does(x64):
    """Of the first moments of the density, which turn as a vector: against a finite difference, on a fine grid."""
    grid = Grid(16, resolution=0.5, radius=0.6, elements=("C", "O"))
    rng = np.random.default_rng(0)
    data = Structures(
        jnp.asarray(rng.normal(size=(2, 4, 3))), jnp.asarray([[6, 8, 6, 6], [8, 6, 6, 0]]), jnp.arange(2), jnp.ones(2)
    )
    axis = jnp.asarray(grid.axis)

    def phi(scale, x):  # [n, c, l, l, l]: density weighted by its x
        return scale * x * axis[:, None, None]

    lie, values = measures.pooled_motion(phi, grid, 2.0, data)
    eps, square = 1e-4, 0
    for a in range(3):
        g = es.so3.exp(eps * es.so3.generators()[a])
        turned = data._replace(positions=jnp.einsum("ij,naj->nai", g, data.positions))
        square += jnp.square((measures.pooled_motion(phi, grid, 2.0, turned)[1] - values) / eps).mean()
    assert lie.square == pytest.approx(float(square), rel=1e-2)
    record = measures.motion_record(lie, values)
    assert record["rate"] * record["spread"] == pytest.approx(np.sqrt(record["square"]), rel=1e-6)
