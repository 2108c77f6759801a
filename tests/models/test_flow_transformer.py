"""Proteina's transformer: its sizes, its parts against plain formulas, and where coordinates come in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.models.flow_layers import Linear, OutGate, PairAttention
from equiscale.models.flow_pairs import Bins, PairBias, PairFeatures, Triangle
from equiscale.models.flow_transformer import PRESETS, Chain, FlowTransformer, index_embedding, time_embedding
from equiscale.rotations import random_rotation
from equiscale.training.state import n_parameters

SMALL = {
    "width": 32, "n_blocks": 2, "n_heads": 2, "pair_width": 8, "condition": 16, "time_features": 16,
    "index_features": 8, "bins": Bins(9, 6, 6), "n_registers": 2,
}  # fmt: skip


def chains(seed=0, batch=2, n=10, lengths=(10, 7)):
    keys = jax.random.split(jax.random.key(seed), 3)
    real = np.arange(n) < np.array(lengths)[:, None]
    positions, guess = (jnp.where(real[..., None], jax.random.normal(k, (batch, n, 3)), 0) for k in keys[:2])
    index = jnp.where(real, jnp.arange(1, n + 1), 0)
    breaks = jnp.zeros((batch, n), bool).at[:, 3].set(True)
    return Chain(positions, index, breaks, jnp.array([0.2, 0.8]), guess, jnp.array([1.0, 0.0]))


@functools.cache
def made(**changes):
    """A small model with parameters that are none of those it starts with, some of which are zero."""
    model = FlowTransformer(**SMALL | changes)
    params = jax.jit(model.init)(jax.random.key(0), chains())["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return model, jax.tree.unflatten(
        tree, [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize(
    "preset, expected",
    {
        "micro": 184_608, "tiny": 1_062_144, "small": 5_546_624, "60M": 64_995_584, "60M_triangles": 70_831_664,
        "200M": 191_068_160, "400M": 397_545_472,
    }.items(),
)  # fmt: skip
def test_presets_have_the_published_numbers_of_parameters(preset, expected):
    model = FlowTransformer(**PRESETS[preset])
    assert n_parameters(jax.eval_shape(model.init, jax.random.key(0), chains())["params"]) == expected


def test_padding_and_other_chains_change_nothing():
    """With updates of pairs, whose sums run over residues as those of attention do."""
    model, params = made(update_every=1, triangles=True)
    both = chains()
    apply = jax.jit(model.apply)
    found = apply({"params": params}, both)
    junk = jnp.where(both.mask[..., None], 0, 7.0)
    moved = both._replace(positions=both.positions + junk, guess=both.guess + junk)
    short = jax.tree.map(lambda a: a[1:, :7] if a.ndim > 1 else a[1:], both)
    np.testing.assert_allclose(apply({"params": params}, moved).velocity, found.velocity, atol=1e-5)
    np.testing.assert_allclose(apply({"params": params}, short).velocity[0], found.velocity[1, :7], atol=5e-4)
    assert not np.asarray(found.velocity[1, 7:]).any()


@pytest.mark.slow  # a quarter of a minute
def test_rows_at_once_change_no_velocity_and_no_gradient():
    model, params = made()
    x = chains()

    def value(model):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sin(model.apply({"params": p}, x).velocity).sum()))(params)

    whole, parts = value(model), value(FlowTransformer(**SMALL, rows_at_once=4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), whole, parts)


def test_coordinates_come_in_and_leave_through_three_matrices():
    """Without the maps of coordinates, the last features are invariant; with them they are not."""
    model, params = made()
    x, g = chains(), random_rotation(jax.random.key(5))
    turned = x._replace(positions=x.positions @ g.T, guess=x.guess @ g.T)

    @jax.jit
    def latent(params, x):
        return model.apply({"params": params}, x, mutable=["intermediates"])[1]["intermediates"]["latent"][0]

    blind = jax.tree.map(lambda a: a, params)
    blind["positions"]["linear"]["kernel"] = jnp.zeros_like(params["positions"]["linear"]["kernel"])
    blind["sequence"]["linear"]["kernel"] = params["sequence"]["linear"]["kernel"].at[-3:].set(0)
    still = latent(blind, x)
    np.testing.assert_allclose(latent(blind, turned), still, atol=2e-4)
    assert np.abs(latent(params, turned) - latent(params, x)).max() > 0.1
    assert np.abs(latent(blind, x._replace(positions=2 * x.positions)) - still).max() > 0.02, "distances are seen"


def test_pairs_are_one_hot_vectors_times_a_matrix():
    bins = Bins(9, 6, 5)
    rng = np.random.default_rng(0)
    separation = rng.integers(-6, 7, (2, 4, 4))
    apart, guessed_apart = rng.uniform(0, 4, (2, 2, 4, 4))
    condition, guessed = jnp.asarray(rng.normal(size=(2, 3))), jnp.array([1.0, 0.0])
    module = PairFeatures(8, bins)
    variables = jax.jit(module.init)(jax.random.key(0), separation, guessed_apart, apart, guessed, condition)
    table = variables["params"]["table"]
    far = np.clip(separation, -4, 4) + 4  # one bin an integer, the outermost for all beyond
    inside = [np.searchsorted(np.linspace(0.1, 3.0, n - 1), d) for n, d in ((6, guessed_apart), (5, apart))]
    one_hot = [np.eye(n)[i] for n, i in zip(bins, (far, *inside), strict=True)]
    one_hot[1] = one_hot[1] * np.array([1.0, 0.0])[:, None, None, None]

    def normed(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = normed(normed(np.concatenate(one_hot, -1) @ np.asarray(table)))
    p = variables["params"]["modulation"]
    c = normed(np.asarray(condition))
    gain = 1 / (1 + np.exp(-(c @ p["gain"]["linear"]["kernel"] + p["gain"]["linear"]["bias"])))
    expected = x * gain[:, None, None] + (c @ p["offset"]["linear"]["kernel"])[:, None, None]
    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, separation, guessed_apart, apart, guessed, condition), expected, atol=2e-5
    )


def test_biases_of_blocks_are_each_a_norm_and_a_linear_map():
    pairs = jax.random.normal(jax.random.key(0), (2, 3, 4, 8))
    module = PairBias(3, 2)
    p = jax.jit(module.init)(jax.random.key(1), pairs)["params"]
    p["offset"] = jax.random.normal(jax.random.key(2), p["offset"].shape)
    found = jax.jit(module.apply)({"params": p}, pairs)
    x = (pairs - pairs.mean(-1, keepdims=True)) / np.sqrt(pairs.var(-1, keepdims=True) + 1e-5)
    for block in range(3):
        expected = (x * p["scale"][block] + p["offset"][block]) @ p["kernel"][block]
        np.testing.assert_allclose(found[:, block], np.moveaxis(expected, -1, 1), atol=1e-5)
    assert np.abs(p["kernel"]).max() <= 8**-0.5, "as one linear layer of 8 inputs starts"


@pytest.mark.parametrize("outgoing", [True, False])
def test_triangles_are_products_over_the_third_residue(outgoing):
    pairs = jax.random.normal(jax.random.key(0), (1, 4, 4, 6))
    module = Triangle(outgoing)
    both = jnp.ones((1, 4, 4), bool).at[:, 3].set(False).at[:, :, 3].set(False)
    variables = jax.jit(module.init)(jax.random.key(1), pairs, both)
    assert not np.asarray(jax.jit(module.apply)(variables, pairs, both)).any(), "nothing is added at the start"
    p = variables["params"]
    p["out"]["linear"]["kernel"] = jnp.eye(6)
    p["out_gate"]["linear"]["bias"] = jnp.full(6, 50.0)

    def normed(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = normed(pairs[0])
    open_ = 1 / (1 + np.exp(-1.0))
    a, b = (open_ * (x @ p[name]["linear"]["kernel"]) for name in ("first", "second"))
    expected = np.zeros((4, 4, 6))
    for i in range(3):
        for j in range(3):
            expected[i, j] = sum(a[i, k] * b[j, k] if outgoing else a[k, i] * b[k, j] for k in range(3))
    found = jax.jit(module.apply)(variables, pairs, both)[0, :3, :3]
    np.testing.assert_allclose(found, normed(expected)[:3, :3], atol=1e-4)


def test_attention_is_softmax_of_normed_products_and_biases():
    x, bias = jax.random.normal(jax.random.key(0), (1, 4, 6)), jax.random.normal(jax.random.key(1), (1, 2, 4, 4))
    mask = jnp.array([[True, True, True, False]])
    module = PairAttention(2)
    variables = jax.jit(module.init)(jax.random.key(2), x, bias, mask)
    p = {name: of["linear"] for name, of in variables["params"].items() if "linear" in of}

    def normed(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    h = normed(x[0])
    q, k, v = np.split(h @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    q, k = normed(q), normed(k)
    out = []
    for head in range(2):
        of = slice(3 * head, 3 * head + 3)
        logits = q[:, of] @ k[:, of].T / np.sqrt(3) + bias[0, head]
        weights = np.exp(np.where(mask, logits, -np.inf))
        out.append(weights / weights.sum(1, keepdims=True) @ v[:, of])
    gate = 1 / (1 + np.exp(-(h @ p["gate"]["kernel"] + p["gate"]["bias"])))
    expected = (gate * np.concatenate(out, -1)) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(jax.jit(module.apply)(variables, x, bias, mask)[0, :3], expected[:3], atol=1e-5)


def test_layers_start_as_pytorchs_and_gates_nearly_closed():
    x = jnp.ones((1, 3, 16))
    p = jax.jit(Linear(64).init)(jax.random.key(0), x)["params"]["linear"]
    for a in (p["kernel"], p["bias"]):
        assert 0.9 * 16**-0.5 < np.abs(a).max() <= 16**-0.5 and abs(a.mean()) < 0.06
    gate = OutGate(1)
    variables = jax.jit(gate.init)(jax.random.key(0), x, jnp.ones((1, 2, 4)))
    np.testing.assert_allclose(jax.jit(gate.apply)(variables, x, jnp.ones((1, 2, 4))), 1 / (1 + np.e**2), rtol=1e-5)


def test_embeddings_of_time_and_place():
    time = time_embedding(jnp.array([0.0, 0.25]), 8)
    np.testing.assert_allclose(time[0], [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(time[1, [3, 7]], [np.sin(0.25), np.cos(0.25)], rtol=1e-4)  # 2000 t / 2000
    place = index_embedding(jnp.array([[1, 5]]), 4)
    slow = 5 * np.pi / 2056**0.5
    np.testing.assert_allclose(place[0, 1], [np.sin(5 * np.pi), np.sin(slow), -1, np.cos(slow)], atol=1e-5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"n_heads": 3}, "n_heads=3 do not divide the width 32"),
        ({"triangles": True}, "set update_every"),
        ({"update_every": 1, "rows_at_once": 4}, "rows_at_once=4 with updates"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(FlowTransformer(**SMALL | fields).init, jax.random.key(0), chains())
    with pytest.raises(ValueError, match=r"expected positions and guess"):
        jax.eval_shape(FlowTransformer(**SMALL).init, jax.random.key(0), chains()._replace(guess=jnp.zeros((2, 9, 3))))
