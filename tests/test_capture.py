"""A captured intermediate is the value the function has there, with its derivatives, and nothing after it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from equiscale.capture import capture, intermediates
from equiscale.models.voxel_unet import VoxelUNet

# Compiling takes most of the time here, so let it optimise little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def plain(params, x):
    """Two layers from a dict of arrays, the first in a scope of its own."""
    with jax.named_scope("hidden"):
        h = jax.nn.relu(x @ params["w"])
    return jnp.sin(h @ params["v"])


def inputs(n=5):
    a, b, c = jax.random.split(jax.random.key(0), 3)
    params = {"w": jax.random.normal(a, (3, 4)), "v": jax.random.normal(b, (4, 2))}
    return params, jax.random.normal(c, (n, 3))


def primitives(jaxpr):
    return [eqn.primitive.name for eqn in jaxpr.eqns]


def test_intermediates_are_named_by_scope_in_program_order_without_computing():
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), inputs())
    found = intermediates(plain, *shapes)
    assert list(found) == ["hidden:dot_general#0", "hidden:custom_jvp_call#0", "dot_general#0", "sin#0"]
    assert found["hidden:custom_jvp_call#0"] == jax.ShapeDtypeStruct((5, 4), jnp.float32)
    assert list(intermediates(jax.jit(plain), *shapes)) == list(found), "jit changes no name"


@pytest.mark.parametrize("name", ["hidden", "h*n", "hidden:custom_jvp_call#0", "*:custom_jvp*"])
def test_an_intermediate_by_scope_glob_or_label(name):
    params, x = inputs()
    h = capture(plain, name)
    expected = jax.nn.relu(x @ params["w"])
    np.testing.assert_array_equal(h(params, x), expected)
    np.testing.assert_array_equal(jax.jit(h)(params, x), expected)
    np.testing.assert_allclose(jax.vmap(h, (None, 0))(params, x), expected, rtol=1e-6)


def test_nothing_else_is_computed():
    h = jax.make_jaxpr(capture(plain, "hidden:dot_general#0"))(*inputs())
    assert primitives(h) == ["dot_general"]
    broken = capture(lambda x: jnp.log(x) / 0 + jnp.sin(x), "sin#0")
    with jax.debug_nans(True):
        np.testing.assert_array_equal(broken(jnp.zeros(2)), 0)


def test_derivatives_keep_custom_rules():
    """relu's rule gives 0 at 0, where that of max(x, 0) would give 1/2; a vjp of our own is kept as well."""
    relu = capture(lambda x: 2 * jax.nn.relu(x), "custom_jvp_call#0")
    assert jax.grad(relu)(0.0 * jnp.ones(())) == 0

    @jax.custom_vjp
    def pass_on(x):
        return jnp.sign(x)

    pass_on.defvjp(lambda x: (jnp.sign(x), None), lambda _, ct: (7 * ct,))
    tap = capture(lambda x: jnp.cos(pass_on(x)), "custom_vjp_call*")
    assert jax.grad(tap)(jnp.asarray(3.0)) == 7


@pytest.mark.parametrize("closed_over", [False, True])
def test_gradients_are_those_of_the_part_before(closed_over):
    params, x = inputs()

    def loss(params):
        if closed_over:
            return jnp.square(capture(functools.partial(plain, params), "hidden")(x)).sum()
        return jnp.square(capture(plain, "hidden")(params, x)).sum()

    expected = jax.grad(lambda p: jnp.square(jax.nn.relu(x @ p["w"])).sum())(params)
    for got in (jax.grad(loss)(params), jax.jit(jax.grad(loss))(params)):
        np.testing.assert_allclose(got["w"], expected["w"], rtol=1e-5)
        np.testing.assert_array_equal(got["v"], 0)


def test_calls_inside_are_opened_and_loops_are_not():
    def f(x):
        with jax.named_scope("a"):
            y = jax.checkpoint(jax.jit(lambda x: jnp.split(jnp.tanh(x), 2)))(x)[1]
        return jax.lax.scan(lambda c, x: (c + x, None), 0.0, y)[0]

    x = jnp.arange(4.0)
    found = intermediates(f, x)
    assert list(found)[:3] == ["a:tanh#0", "a:split#0.0", "a:split#0.1"] and list(found)[-1].startswith("scan#0")
    np.testing.assert_allclose(capture(f, "a")(x), np.tanh(x[2:]), rtol=1e-6)


def test_a_scope_hands_on_what_is_used_outside_it():
    """Not its last equation where that is a by-product; a scope opened twice hands on its last."""

    def f(x):
        for _ in range(2):
            with jax.named_scope("block"):
                x = jnp.exp(-x)
                _ = jnp.sin(x).sum()
        return x + 1

    x = jnp.ones(3)
    np.testing.assert_allclose(capture(f, "block")(x), np.exp(-np.exp(-x)), rtol=1e-6)


def test_equinox_layers_have_their_names():
    eqx = pytest.importorskip("equinox")
    mlp = eqx.nn.MLP(3, 2, 4, depth=2, key=jax.random.key(0))
    _, x = inputs()

    def forward(mlp, x):
        return jax.vmap(mlp)(x)

    activations = [name for name in intermediates(forward, mlp, x) if "custom_jvp_call" in name]
    assert len(activations) == 2 and all("MLP" in name for name in activations)
    hidden = capture(forward, activations[0])  # the model is an argument, its static fields included
    w, b = mlp.layers[0].weight, mlp.layers[0].bias
    np.testing.assert_allclose(hidden(mlp, x), jax.nn.relu(x @ w.T + b), rtol=1e-5, atol=1e-6)
    grads = eqx.filter_grad(lambda mlp: jnp.square(hidden(mlp, x)).sum())(mlp)
    assert jnp.any(grads.layers[0].weight != 0) and jnp.all(grads.layers[1].weight == 0)


@pytest.mark.parametrize("remat", [False, True])
def test_a_linen_latent_is_what_the_model_sows(remat):
    model = VoxelUNet(
        2,
        n_channels=4,
        n_groups=2,
        channel_multipliers=(1, 2),
        attention_levels=(False, True),
        n_blocks=1,
        remat=remat,
    )
    x = jax.random.normal(jax.random.key(1), (2, 2, 4, 4, 4))
    params = jit(model.init)(jax.random.key(0), x)
    _, sown = jit(functools.partial(model.apply, mutable="intermediates"))(params, x)
    latent = jnp.moveaxis(jit(capture(model.apply, "*/middle_2"))(params, x), -1, 1)
    np.testing.assert_allclose(latent, sown["intermediates"]["latent"][0], atol=1e-5)
    with pytest.raises(ValueError, match=r"nearest.*VoxelUNet/middle_2"):
        capture(model.apply, "*/middle2")(params, x)
    with pytest.raises(ValueError, match=r"fits 2 .*norm1:rsqrt#0.*norm2:rsqrt#0"):
        capture(model.apply, "*middle_1*rsqrt*")(params, x)


def test_linen_keyword_arguments_reach_the_model():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(2, name="out")(nn.Dense(4, name="train" if train else "evaluate")(x))

    _, x = inputs()
    model = Model()
    params = model.init(jax.random.key(0), x, train=True)
    hidden = capture(model.apply, "Model/train")(params, x, train=True)
    kernel = params["params"]["train"]["kernel"]
    np.testing.assert_allclose(hidden, x @ kernel, rtol=1e-5, atol=1e-6)


def test_nnx_models_are_functions_too():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            with jax.named_scope("hidden"):
                h = jnp.tanh(self.first(x))
            return self.second(h)

    model = Model(nnx.Rngs(0))
    _, x = inputs()
    hidden = capture(model, "hidden")
    np.testing.assert_allclose(hidden(x), jnp.tanh(model.first(x)), rtol=1e-6)
    model.first.kernel[...] *= 2
    np.testing.assert_allclose(hidden(x), jnp.tanh(model.first(x)), rtol=1e-6, err_msg="a stale model")
