"""`experiments.generate` as a user starts it, at the smallest size."""

import json
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.denoise_voxels import get_config
from equiscale.data.voxels import Grid
from equiscale.rotations import cube
from equiscale.tasks.voxels import make_model
from equiscale.training import checkpoints
from equiscale.training.run_folder import open_run
from equiscale.training.state import TrainState
from tests.commands import command, start

PEAKS = ("--threshold=0.01", "--max_atoms=200")  # the densities of an untrained network have many low peaks
CHAINS = ("--chains=6", "--batch=4", "--steps=8", "--jumps=3", "--warmup=4", *PEAKS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with nothing but the checkpoint of an exactly equivariant network, at step 0."""
    folder = tmp_path_factory.mktemp("generate")
    config = get_config("smoke")
    config.model.preset, config.training.ema_decay = "steerable_cpu_0.02M", 0.5
    open_run(folder / "run", config.to_dict())
    grid = Grid(config.grid.length, config.grid.resolution, tuple(config.grid.elements), radius=config.grid.radius)
    model = make_model(config.model.preset, grid)
    params = jax.jit(lambda key: model.init(key, jnp.zeros((1, *grid.shape)))["params"])(jax.random.key(0))
    zero = jnp.zeros((), int)
    with checkpoints.open_checkpoints(folder / "run") as saved:
        checkpoints.save(saved, TrainState(zero, params, params, {}, zero, jnp.zeros(2)))
    return folder / "run"


def generate(run, *arguments):
    result = start(f"--workdir={run}", *arguments, module="generate")
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def molecules(run, name):
    with np.load(run / "generated" / name / "molecules.npz") as saved:
        return dict(saved)


@pytest.mark.slow  # a minute
def test_killed_and_started_again_it_ends_the_same(run):
    result = generate(run, "--name=straight", *CHAINS)
    assert "step 0, averaged parameters; 6 chains of 28 steps from noise" in result.stdout
    assert "100.0% of 6 chains gave a molecule" in result.stdout
    line, settings = command(f"--workdir={run}", "--name=killed", *CHAINS, module="generate")
    process = subprocess.Popen(line, **settings, stderr=subprocess.DEVNULL)
    killed = run / "generated" / "killed"
    while process.poll() is None and not (killed / "parts" / "chains.npz").exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert (killed / "parts" / "0-0.npz").exists() and not (killed / "generate.json").exists()
    generate(run, "--name=killed", *CHAINS)
    a, b = molecules(run, "straight"), molecules(run, "killed")
    assert a.keys() == b.keys() and len(a["species"]) == 18
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert a["chain"].tolist() == np.repeat(np.arange(6), 3).tolist() and a["step"].tolist() == [12, 20, 28] * 6
    made = json.loads((killed / "generate.json").read_text())
    assert made["counts"]["molecules"] == made["counts"]["jumps"] == 18 and made["versions"]["packages"]["jax"]
    assert made["settings"]["walk"]["sigma"] == 0.1 and not (killed / "parts").exists()
    n_written = (killed / "molecules.sdf").read_text().count("$$$$")
    assert n_written == made["counts"]["sdf"]["written"] > 0
    again = start(f"--workdir={run}", "--name=killed", module="generate")
    assert again.returncode != 0 and "steps: 8 in the folder, 500 asked for" in again.stderr


@pytest.mark.slow  # half a minute
def test_an_equivariant_model_turns_its_samples_with_the_seeds_and_the_noise(run):
    seeded = ("--seeds_from=validation", "--seeds=2", "--rotations=4", "--steps=20", "--jumps=1", "--batch=8", *PEAKS)
    result = generate(run, "--noise=turned", *seeded)
    assert "step 0, averaged parameters; 8 chains of 20 steps from 2 molecules in 4 orientations" in result.stdout
    a = molecules(run, "seeded")
    assert len(a["seed_names"]) == 2 and len(a["species"]) == 8
    angles = np.degrees(np.arctan2(a["rotations"][:, 1, 0], a["rotations"][:, 0, 0]))
    np.testing.assert_allclose(angles % 360, [0, 90, 180, 270])
    assert all(any((g == c).all() for c in cube()) for g in a["rotations"])
    for row, (seed, rotation) in enumerate(zip(a["seed"], a["rotation"], strict=True)):
        plain = np.flatnonzero((a["seed"] == seed) & (a["rotation"] == 0))[0]
        turned = a["positions"][plain] @ a["rotations"][rotation].T
        distances = np.linalg.norm(turned[:, None] - a["positions"][row], axis=-1)
        distances[a["species"][plain][:, None] != a["species"][row]] = np.inf
        nearest = distances.min(axis=1)[a["species"][plain] > 0]
        # Not all: some low peaks are too flat to be fitted to the end.
        assert len(nearest) > 5 and np.mean(nearest < 0.01) > 0.9
    assert np.abs(a["positions"][0] - a["positions"][1]).max() > 0.1


@pytest.mark.slow  # what it measures is tested in tests/studies
def test_what_was_generated_is_assessed_also_by_rotation(run):
    if not (run / "generated" / "seeded").exists():
        test_an_equivariant_model_turns_its_samples_with_the_seeds_and_the_noise(run)
    result = start(f"--workdir={run}", "--name=seeded", module="assess")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "8 molecules" in result.stdout and "90° about z" in result.stdout and "bond_length_w1" in result.stdout
    folder = run / "generated" / "seeded"
    found = json.loads((folder / "assessment.json").read_text())
    assert found["consistency"]["unrotated"] == "none" and len(found["consistency"]["rotations"]) == 4
    assert found["quality"]["n"] == 8 and 0 <= found["quality"]["validity"]["value"] <= 1
    assert all((folder / f"{name}.png").stat().st_size > 5_000 for name in ("quality", "consistency"))
    missing = start(f"--workdir={run}", "--name=nothing", module="assess")
    assert missing.returncode != 0 and "python -m experiments.generate" in missing.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--seeds_from=validation", "--chains=3"), "--seeds times --rotations"),
        (("--lipschitz=1",), "diverges: raise lipschitz from 1 to above 6.25"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, words, run):
    result = start(f"--workdir={run}", *arguments, module="generate")
    assert result.returncode != 0 and words in result.stderr[-1500:]
