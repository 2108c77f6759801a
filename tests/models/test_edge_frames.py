"""Products with harmonics of an edge in its own frame: where the frame is, and that the numbers are those outside."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.models.edge_frames import (
    _products,
    coupled,
    edge_frames,
    into_frames,
    order_weights,
    summed_from_frames,
)
from equiscale.models.tensor_paths import paths, product
from equiscale.sphere.harmonics import harmonics

AXIS = np.array([0.0, 1.0, 0.0])
NEAR = np.array([[0.6, 1e-9, -0.8], [0.6, -1e-9, -0.8], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [1e-5, -1.0, 0.0]])


def directions(n):
    found = np.random.default_rng(0).normal(size=(n, 3))
    return np.concatenate([found, NEAR]) / np.linalg.norm(np.concatenate([found, NEAR]), axis=1, keepdims=True)


def test_in_its_frame_an_edge_is_the_axis(x64):
    """Also next to the jump and to the axis itself; frames are rotations, improper ones would turn cross products."""
    frames = np.asarray(edge_frames(jnp.asarray(directions(20)), 2))
    np.testing.assert_allclose(frames @ frames.transpose(0, 2, 1), np.broadcast_to(np.eye(9), frames.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(frames[:, 1:4, 1:4]), 1, atol=1e-12)
    found = np.einsum("nij,nj->ni", frames, harmonics(directions(20), 2))
    np.testing.assert_allclose(found, np.broadcast_to(harmonics(AXIS[None], 2), found.shape), atol=1e-12)


@pytest.mark.parametrize("degree, n_products", [(1, 8), (2, 29)])
def test_products_are_those_of_any_frame(x64, degree, n_products):
    """Summed over the edges of an atom; and derivatives, also with the direction, through the choice of frame."""
    vectors = jnp.asarray(directions(1))[None]
    rows = (degree + 1) ** 2, len(paths(degree))
    x, weights = (jax.random.normal(jax.random.key(i), (1, vectors.shape[1], n, 2)) for i, n in enumerate(rows))
    assert sum(map(len, _products(degree)[1])) == n_products

    def in_frames(direction, x, weights):
        frames = edge_frames(direction, degree)
        return summed_from_frames(coupled(into_frames(x, frames), order_weights(weights, degree)), frames)

    def outside(direction, x, weights):
        irreps = e3nn.Irreps.spherical_harmonics(degree)
        algorithm = ("recursive", "dense", "custom_jvp")
        y = e3nn.spherical_harmonics(irreps, direction, False, normalization="integral", algorithm=algorithm).array
        return product(x, jnp.broadcast_to((4 * jnp.pi) ** 0.5 * y[..., None], x.shape), weights).sum(1)

    def slopes(messages):
        def value(vectors, x, weights):
            direction = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            return jnp.sum(jnp.sin(messages(direction, x, weights)))

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))(vectors, x, weights)

    (value, found), (expected_value, expected) = slopes(in_frames), slopes(outside)
    assert float(value) == pytest.approx(float(expected_value), abs=1e-10)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
