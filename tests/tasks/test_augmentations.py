import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale import rotations
from equiscale.tasks.augmentations import AUGMENTATIONS


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_each_draws_rotations_with_its_second_moments(name):
    """E[R_ij^2] is 1/3 everywhere but for VoxMol's angles and the 16 turns, whose first axis is turned too often."""
    drawn = jax.vmap(AUGMENTATIONS[name])(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(
        jnp.einsum("nij,nkj->nik", drawn, drawn), jnp.broadcast_to(jnp.eye(3), drawn.shape), atol=1e-5
    )
    np.testing.assert_allclose(jnp.linalg.det(drawn), 1, atol=1e-5)
    if name == "paper16":
        wanted = np.square(rotations.paper16()).mean(0)
    elif name == "euler":
        wanted = np.array([[1 / 4, 3 / 8, 3 / 8], [1 / 4, 3 / 8, 3 / 8], [1 / 2, 1 / 4, 1 / 4]])
    else:
        wanted = np.full((3, 3), 1 / 3)
    np.testing.assert_allclose(np.square(drawn).mean(0), wanted, atol=0.02)
    assert jnp.abs(drawn.mean(0)).max() < 0.02 or name == "paper16"
