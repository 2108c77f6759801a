"""Predicting properties at the smallest size: the symmetry, the losses, and what each way to begin does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import equiscale as es
from configs.predict_properties import get_config
from equiscale.data.molecules import Molecules, from_records
from equiscale.data.properties import OF_ATOMS, measure
from equiscale.data.voxels import Grid
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.parameters import by_path
from equiscale.tasks import denoise_voxels, predict_properties
from equiscale.tasks.augmentations import augment
from equiscale.tasks.molecule_sets import structures
from equiscale.tasks.property_targets import describe, quantities_of, standard_of, targets_of, with_properties
from equiscale.training import loop
from equiscale.training.settings import Settings

GRID = Grid(4, 2.0, ("C", "O"), radius=1.5)
NAMES = ("radius_of_gyration", "vector_to_n_and_o", "molecular_weight")
LEVELS = {"channel_multipliers": (1, 2), "attention_levels": (False, False), "n_blocks": 1, "dropout": 0.2}
PLAIN = VoxelUNet(2, n_channels=4, n_groups=2, **LEVELS)
STEERABLE = SteerableUNet(2, multiplicities=(3, 2, 1), n_levels=2, kernel_size=3, dropout=0.2)
SETTINGS = Settings(steps=3, batch_size=4, learning_rate=1e-2, weight_decay=0.1, evaluations=1)


def molecules(n=8):
    """Carbon and oxygen in random places near the origin: shapes for tests, no chemistry."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 6, n)
    return from_records(
        [(f"random {i}", [8] + [6] * (k - 1), rng.normal(size=(k, 3))) for i, k in enumerate(sizes)], ""
    )


MOLECULES, VALUES, _ = with_properties(molecules(), NAMES)
STANDARD = standard_of(VALUES)
DATA = structures(MOLECULES, targets_of(VALUES, STANDARD))


def make(**changes):
    settings = {
        "properties": describe(quantities_of(MOLECULES, NAMES), STANDARD),
        "model": PLAIN,
        "head_width": 8,
        "noise_sigma": 0.3,
        "augmentation": "cube",
        "evaluation_batch": 8,
        "seed": 0,
    }
    return predict_properties.make_task(GRID, [DATA], DATA, **settings | changes)


@pytest.fixture(scope="module")
def params():
    return jax.jit(make().init)(jax.random.key(0))


@pytest.mark.parametrize("model", [PLAIN, STEERABLE], ids=["plain", "steerable"])
def test_scalars_stay_and_vectors_turn_with_a_steerable_network_alone(model):
    task = make(model=model)
    params = jax.jit(task.init)(jax.random.key(0))
    d = jax.jit(task.evaluate)(params, task.validation[0])
    assert (d.percent < 1e-6) == (model is STEERABLE) and d.n_examples == 8
    prediction = jax.jit(task.predict)(params, task.pair(task.validation[0]).x)
    assert {kind: a.shape for kind, a in prediction.items()} == {"scalars": (8, 2), "vectors": (8, 1, 3)}
    assert jnp.linalg.norm(prediction["vectors"]) > 1e-3


def test_labels_turn_with_their_molecules():
    """The properties of turned and moved molecules are the turned properties."""
    move = augment("haar", 0.7, {"scalars": es.scalars, "vectors": es.vectors})
    moved = jax.jit(move)(DATA, jax.random.key(0))
    assert np.abs(np.asarray(moved.positions - DATA.positions)).max() > 0.5
    turned = Molecules(np.array(moved.positions), np.array(MOLECULES.species), MOLECULES.names, "turned")
    values, _ = measure(turned, NAMES)
    for kind, wanted in targets_of(values, STANDARD).items():
        np.testing.assert_allclose(moved.labels[kind], wanted, atol=1e-4)
    assert np.abs(moved.labels["vectors"] - DATA.labels["vectors"]).max() > 0.1
    assert set(NAMES) <= set(OF_ATOMS), "all of atoms, so the positions alone decide"


def test_the_loss_is_that_of_properties_plus_that_of_denoising(params):
    """The first is what is measured, the second what denoise_voxels trains on the same batch."""
    alone, joint = make(), make(denoising_weight=0.01)
    batch = jax.jit(alone.sample)(DATA, jax.random.key(3))
    denoiser = denoise_voxels.make_task(
        GRID,
        [DATA],
        DATA,
        model=PLAIN.clone(dropout=0.0),
        noise_sigma=0.3,
        augmentation="cube",
        evaluation_batch=8,
        seed=0,
    )
    no_dropout = {"model": PLAIN.clone(dropout=0.0), "head_dropout": 0.0}
    alone, joint = make(**no_dropout), make(**no_dropout, denoising_weight=0.01)
    key = jax.random.key(4)

    @jax.jit
    def losses(params):
        prediction = alone.predict(params, batch[0])
        errors = [jnp.square(prediction[kind] - batch[2][kind]).sum() for kind in ("scalars", "vectors")]
        denoising = denoiser.loss(params["encoder"], batch[:2], key)
        return alone.loss(params, batch, key), joint.loss(params, batch, key), sum(errors) / (8 * 5), denoising

    found, both, wanted, denoising = losses(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(both, found + 0.01 * denoising, rtol=1e-5)
    assert 0.01 * denoising > 0.01 * found


@pytest.mark.slow  # frozen parameters are tested in test_loop
def test_a_frozen_encoder_stays_bit_identical(tmp_path):
    """Neither gradients nor weight decay reach it."""
    task = make(frozen=True)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    state = loop.train(task, SETTINGS, tmp_path, title="frozen", mesh=mesh)
    start, end = by_path(loop.untrained_params(task, SETTINGS)), by_path(state.params)
    for path, leaf in start.items():
        assert np.array_equal(leaf, end[path]) == path.startswith("encoder/"), path
    assert len(jax.tree.leaves(state.opt_state)) < len(start), "two moments of the head's parameters, and counters"


def test_frozen_parameters_get_no_gradient_and_others_do(params):
    batch = jax.jit(make().sample)(DATA, jax.random.key(3))
    for frozen in (True, False):
        slope = jax.jit(jax.grad(make(frozen=frozen).loss))(params, batch, jax.random.key(0))
        sizes = {path: float(jnp.abs(leaf).max()) for path, leaf in by_path(slope).items()}
        assert (sizes["encoder/stem/kernel"] > 0) != frozen and sizes["head/linear_1/kernel"] > 0


def test_an_encoder_starts_from_given_parameters(params):
    given = jax.device_get(jax.tree.map(lambda a: a + 1.0, params["encoder"]))
    found = jax.jit(make(encoder=lambda: given).init)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, found["encoder"], given)
    wide = VoxelUNet(2, n_channels=8, n_groups=2, **LEVELS)
    with pytest.raises(ValueError, match=r"down_0/.* has shape \(4,\) there and \(8,\) in this run's model"):
        jax.eval_shape(make(model=wide, encoder=lambda: given).init, jax.random.key(0))


def test_clean_input_has_no_noise():
    for sigma in (0.0, 0.3):
        task = make(noise_sigma=sigma)
        x, clean, _ = jax.jit(task.sample)(DATA, jax.random.key(0))
        assert jnp.array_equal(x, clean) == (sigma == 0)
        pair = task.pair(task.validation[0])
        assert (pair.x.min() >= 0) == (sigma == 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"augmentation": "quaternion"}, "none of none, cube, paper16, haar, euler"),
        ({"denoising_weight": 1.0, "noise_sigma": 0.0}, r"denoising_weight=1\.0 while the input is clean"),
        ({"denoising_weight": 1.0, "frozen": True}, r"denoising_weight=1\.0 while the encoder is frozen"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_a_config_that_does_not_fit_is_refused():
    config = get_config("smoke")
    config.input = "blurred"
    with pytest.raises(ValueError, match="input 'blurred' is none of noisy, clean"):
        predict_properties.from_config(config, "cube")
    config.input, config.encoder.run = "clean", "somewhere"
    with pytest.raises(ValueError, match=r"encoder\.run is 'somewhere'"):
        predict_properties.from_config(config, "cube")
