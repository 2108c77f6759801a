"""Learning rates by step: under a constant gradient each of Adam's steps is as long as its learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.training.settings import Settings, make_optimizer


def rates(settings: Settings) -> np.ndarray:
    optimizer = make_optimizer(settings)
    params = jnp.zeros(1)

    def step(state, _):
        update, state = optimizer.update(jnp.ones(1), state, params)
        return state, -update[0]

    return np.asarray(jax.lax.scan(step, optimizer.init(params), length=settings.steps)[1])


def test_the_rate_rises_linearly_and_stays():
    found = rates(Settings(steps=8, batch_size=1, learning_rate=1e-2, warmup=3))
    np.testing.assert_allclose(found, 1e-2 * np.array([0.25, 0.5, 0.75, 1, 1, 1, 1, 1]), rtol=1e-4)


def test_it_falls_along_half_a_cosine_of_the_whole_run():
    """As EScAIP's: 0.5 + 0.25 (1 + cos(pi t / T)), not moved by the warm-up."""
    found = rates(Settings(steps=8, batch_size=1, learning_rate=1e-2, warmup=1, final_rate=0.5))
    expected = 1e-2 * (0.5 + 0.25 * (1 + np.cos(np.pi * np.arange(8) / 8)))
    np.testing.assert_allclose(found, expected * np.array([0.5] + [1] * 7), rtol=1e-4)


@pytest.mark.parametrize("final", [-0.1, 1.5])
def test_a_final_rate_that_is_no_share_is_refused(final):
    with pytest.raises(ValueError, match=f"final_rate={final}"):
        make_optimizer(Settings(steps=8, batch_size=1, learning_rate=1e-2, final_rate=final))
