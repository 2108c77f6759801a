"""Aligning latents: the disagreement against closed forms, and a training that is the published one without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import equiscale as es
from equiscale.models.steerable_unet import SteerableUNet
from equiscale.models.voxel_unet import VoxelUNet
from equiscale.subspace import convolution, equivariant_part
from equiscale.tasks.alignment import KINDS, Alignment, Sums, disagreement, joined, measured
from equiscale.training.devices import make_mesh
from equiscale.training.instruments import make_instruments
from tests.models.test_voxel_unet import random_params
from tests.tasks.test_denoise_voxels import make
from tests.training.test_loop import toy_task

PAIRS = np.random.default_rng(0).normal(size=(2, 5, 7, 3, 4)) + 2.0  # a and b: pairs, examples, channels, voxels
NET = VoxelUNet(2, 4, 2, channel_multipliers=(1,), attention_levels=(False,), n_blocks=1, dropout=0)


def reference(a, b):
    """A in float64, written as its formula."""
    ratios = []
    for c in range(a.shape[1]):
        m = (a[:, c].mean(0) + b[:, c].mean(0)) / 2
        ratios.append(((a[:, c] - b[:, c]) ** 2).sum() / (((a[:, c] - m) ** 2).sum() + ((b[:, c] - m) ** 2).sum()))
    return np.mean(ratios)


@given(scale=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), shift=st.floats(-10, 10))
def test_neither_scale_nor_a_common_offset_matters(scale, shift):
    a, b = PAIRS[:, 0]
    scale = np.array(scale)[:, None]
    moved = [jnp.asarray(scale * (z + shift * np.arange(4)), jnp.float32) for z in (a, b)]
    np.testing.assert_allclose(disagreement(*moved), reference(a, b), rtol=2e-3)


def test_latents_that_agree_are_unrelated_or_opposite():
    rng = np.random.default_rng(1)
    a, b = jnp.asarray(rng.normal(size=(2, 200, 3, 50)), jnp.float32)
    assert disagreement(a, a) == 0
    assert disagreement(a, b) == pytest.approx(1, abs=0.03)
    assert disagreement(a - a.mean(0), a.mean(0) - a) == pytest.approx(2, rel=1e-5)
    half = (a + b) / np.sqrt(2)  # correlation sqrt(1/2)
    assert disagreement(a, half) == pytest.approx(1 - np.sqrt(0.5), abs=0.02)
    assert disagreement(jnp.ones((4, 1, 3)), jnp.ones((4, 1, 3))) == 0, "a constant channel is no NaN"


def test_its_gradient_changes_the_scale_of_no_channel(x64):
    a, b = map(jnp.asarray, PAIRS[:, 0])
    of_a, of_b = jax.grad(disagreement, (0, 1))(a, b)
    m = (a.mean(0) + b.mean(0)) / 2
    along_scale = (of_a * (a - m) + of_b * (b - m)).sum((0, 2))
    assert jnp.abs(along_scale).max() < 1e-12 < 1e-3 < jnp.abs(of_a).max()
    np.testing.assert_allclose((of_a + of_b).sum(0), 0, atol=1e-12)


def test_a_set_in_batches_is_measured_as_a_whole_with_the_jackknifes_error():
    a, b = PAIRS
    whole = reference(*(z.reshape(-1, 3, 4) for z in (a, b)))
    parts = [Sums.of(a[:, rows], b[:, rows]) for rows in (slice(0, 3), slice(3, 7))]
    value, stderr = measured(joined(parts))
    assert value == pytest.approx(whole, rel=1e-12)
    left_out = [reference(*(np.delete(z, i, 1).reshape(-1, 3, 4) for z in (a, b))) for i in range(7)]
    assert stderr == pytest.approx(np.sqrt(6 / 7 * np.square(np.array(left_out) - np.mean(left_out)).sum()), rel=1e-9)


def test_at_weight_0_the_training_is_the_published_one_operation_by_operation():
    task = make(model=NET, alignment=Alignment(0.0, "invariant"))

    def published(params, batch, key):
        noisy, clean = batch
        prediction = NET.apply({"params": params}, noisy, train=True, rngs={"dropout": key})
        return jnp.square(prediction - clean).sum() / len(clean)

    shapes = jax.eval_shape(task.init, jax.random.key(0))
    batch = jax.eval_shape(task.sample, task.train[0], jax.random.key(0))
    programs = [jax.make_jaxpr(loss)(shapes, batch, jax.random.key(0)) for loss in (task.loss, published)]
    assert str(programs[0]) == str(programs[1])


@pytest.fixture(scope="module")
def networks():
    """Parameters of `NET`: as drawn, and with kernels that are averaged over the cube's rotations."""
    drawn = random_params(NET)["params"]
    measure = es.octahedral.enumerate()
    symmetric = jax.tree.map(lambda p: p if p.ndim < 5 else 5 * equivariant_part(p, measure, convolution()), drawn)
    return drawn, symmetric


@pytest.fixture(scope="module")
def instrument():
    return make_instruments(("alignment",), make(model=NET, evaluation_batch=8), make_mesh())["alignment"]


def test_an_equivariant_network_agrees_and_another_does_not(networks, instrument):
    drawn, symmetric = map(instrument, networks)
    assert set(drawn) == {"measure", *KINDS, *(f"{kind}_stderr" for kind in KINDS)}
    assert drawn["measure"] == "octahedral.enumerate()"
    assert max(symmetric[kind] for kind in KINDS) < 1e-9
    for kind in KINDS:
        assert 0 < drawn[f"{kind}_stderr"] < drawn[kind] < 1.5
    assert drawn["equivariant"] > 0.1


def test_a_steerable_network_agrees_when_its_vectors_turn():
    """Four of its five molecules, in a padded batch."""
    model = SteerableUNet(2, multiplicities=(2, 1, 1), n_levels=2, kernel_size=3)
    task = make(model=model, evaluation_batch=5)
    few = [task.validation[0]._replace(weight=jnp.array([1.0, 1, 0, 1, 1]))]
    measure = make_instruments(("alignment",), task._replace(validation=few), make_mesh())["alignment"]
    params = jax.jit(task.init)(jax.random.key(0))
    found = measure(params)
    assert found["equivariant"] < 1e-9 and found["invariant"] < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_published_one_and_what_latents_disagree(kind, networks):
    """The scale of the second is the squared norm of the clean grids; nothing where the network is equivariant."""
    published, light, heavy = (make(model=NET, alignment=Alignment(weight, kind)) for weight in (0.0, 1.0, 3.0))
    batch = light.sample(light.train[0], jax.random.key(1))
    losses = jax.jit(lambda params: [t.loss(params, batch, jax.random.key(2)) for t in (published, light, heavy)])
    scale = jnp.square(batch[1]).sum() / len(batch[1])
    (plain, once, thrice), (_, equivariant, _) = map(np.array, map(losses, networks))
    assert 0.1 < (once - plain) / scale < 2
    np.testing.assert_allclose(thrice - plain, 3 * (once - plain), rtol=1e-3)
    np.testing.assert_allclose(equivariant, losses(networks[1])[0], rtol=1e-6)


def test_descending_its_loss_aligns_the_latents(networks, instrument):
    params, _ = networks
    task = make(model=NET, alignment=Alignment(30.0, "equivariant"))
    batch = task.sample(task.train[0], jax.random.key(1))
    slope = jax.jit(jax.grad(task.loss))
    before = instrument(params)["equivariant"]
    for step in range(12):
        gradient = slope(params, batch, jax.random.key(step))
        params = jax.tree.map(lambda p, d: p - 3e-3 * jnp.sign(d), params, gradient)
    assert instrument(params)["equivariant"] < 0.8 * before


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(ValueError, match="'rotated' is none of equivariant, invariant"):
        make(model=NET, alignment=Alignment(0.0, "rotated"))
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"alignment.weight {weight}"):
            make(model=NET, alignment=Alignment(weight))
    with pytest.raises(ValueError, match="at least 2, not 1"):
        disagreement(jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="at least 2 validation examples, not 1"):
        measured(Sums.of(PAIRS[0, :, :1], PAIRS[1, :, :1]))
    with pytest.raises(ValueError, match="turn with the molecule by construction"):
        make(model=SteerableUNet(2), alignment=Alignment(0.1))
    with pytest.raises(ValueError, match="'toy' names no latent"):
        make_instruments(("alignment",), toy_task(), make_mesh())
