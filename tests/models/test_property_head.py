import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.models.property_head import PropertyHead, shifted_softplus

IRREPS = "3x0e+2x1e+1x2e"


def latent(channels, batch=4, side=2, key=0):
    return jax.random.normal(jax.random.key(key), (batch, channels, side, side, side))


def test_the_plain_head_is_its_formula():
    """Against float64 NumPy: mean over voxels, then twice linear, LayerNorm and softplus(x) - ln 2, then linear."""
    head = PropertyHead(n_scalars=2, n_vectors=1, width=5)
    x = latent(3)
    params = jax.tree.map(
        lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape),
        jax.jit(head.init)(jax.random.key(1), x)["params"],
    )
    found = jax.jit(head.apply)({"params": params}, x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = np.asarray(x, np.float64).mean((2, 3, 4))
    for i in (1, 2):
        h = h @ p[f"linear_{i}"]["kernel"] + p[f"linear_{i}"]["bias"]
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-6)
        h = np.log1p(np.exp(h * p[f"norm_{i}"]["scale"] + p[f"norm_{i}"]["bias"])) - np.log(2)
    out = h @ p["linear_3"]["kernel"] + p["linear_3"]["bias"]
    np.testing.assert_allclose(found["scalars"], out[:, :2], atol=1e-5)
    np.testing.assert_allclose(found["vectors"][:, 0], out[:, 2:], atol=1e-5)
    assert shifted_softplus(0.0) == 0


def test_on_irreps_scalars_stay_and_vectors_turn():
    head = PropertyHead(n_scalars=2, n_vectors=3, width=8, irreps=IRREPS)
    x = latent(14)
    params = jax.jit(head.init)(jax.random.key(1), x)
    g = es.so3.random(jax.random.key(2))

    def turn(x):  # the fields' components; where in the grid they are does not matter to their mean
        return jnp.moveaxis(es.irreps(IRREPS)(g, jnp.moveaxis(x, 1, -1)), -1, 1)

    apply = jax.jit(head.apply)
    still, turned = apply(params, x), apply(params, turn(x))
    np.testing.assert_allclose(turned["scalars"], still["scalars"], atol=1e-5)
    np.testing.assert_allclose(turned["vectors"], es.vectors(g, still["vectors"]), atol=1e-5)
    assert jnp.abs(turned["vectors"] - still["vectors"]).max() > 1e-3 and jnp.ptp(still["scalars"][:, 0]) > 1e-3
    plain = PropertyHead(n_scalars=2, width=8)
    params, apply = jax.jit(plain.init)(jax.random.key(1), x), jax.jit(plain.apply)
    apart = apply(params, turn(x))["scalars"] - apply(params, x)["scalars"]
    assert jnp.abs(apart).max() > 1e-3, "without irreps nothing holds it to the symmetry"


def test_dropout_is_for_training_and_slopes_are_finite_where_vectors_vanish():
    head = PropertyHead(n_scalars=1, width=64, dropout=0.5, irreps=IRREPS)
    x = jnp.zeros((2, 14, 2, 2, 2))
    params = jax.jit(head.init)(jax.random.key(1), x)
    slope = jax.jit(jax.grad(lambda x: head.apply(params, x)["scalars"].sum()))(x)
    assert jnp.isfinite(slope).all()
    apply = jax.jit(lambda key: head.apply(params, latent(14), train=True, rngs={"dropout": key}))
    once, again = (apply(jax.random.key(i)) for i in (0, 1))
    assert jnp.abs(once["scalars"] - again["scalars"]).max() > 1e-3
    assert set(once) == {"scalars"}


@pytest.mark.parametrize(
    "fields, channels, message",
    [
        ({"n_scalars": 0}, 4, "0 scalars and 0 vectors to predict"),
        ({"n_scalars": 1, "irreps": IRREPS}, 4, "have 14 channels, got 4"),
        ({"n_scalars": 0, "n_vectors": 2, "irreps": "4x0e"}, 4, "hold no vectors to make 2 of"),
    ],
)
def test_what_does_not_fit_is_refused(fields, channels, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(PropertyHead(**fields).init, jax.random.key(0), latent(channels))
    with pytest.raises(ValueError, match="cubic grid"):
        jax.eval_shape(PropertyHead(n_scalars=1).init, jax.random.key(0), jnp.zeros((2, 3, 4)))
