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


@pytest.mark.parametrize(
    "name, ways",
    {
        "adamw": (1.0, 1.0),  # signs, since the gradient is constant
        "lion": (1.0, 1.0),
        "sgd": (2.0, 0.9 * 2.0 + 2.0),  # the gradient and its momentum
    }.items(),
)
def test_two_steps_of_each_optimizer_by_hand(name, ways):
    """Of a gradient 2 at parameter 3; weights decay apart from it, by rate times decay."""
    optimizer = make_optimizer(Settings(2, 1, learning_rate=0.1, optimizer=name, weight_decay=0.5))
    x = expected = jnp.full(1, 3.0)
    state = optimizer.init(x)
    for way in ways:
        update, state = optimizer.update(jnp.full(1, 2.0), state, x)
        x, expected = x + update, expected - 0.1 * (way + 0.5 * expected)
        np.testing.assert_allclose(x, expected, rtol=1e-5)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer 'adma' is none of adamw, lion, sgd"):
        make_optimizer(Settings(2, 1, learning_rate=0.1, optimizer="adma"))


@pytest.mark.parametrize("final", [-0.1, 1.5])
def test_a_final_rate_that_is_no_share_is_refused(final):
    with pytest.raises(ValueError, match=f"final_rate={final}"):
        make_optimizer(Settings(steps=8, batch_size=1, learning_rate=1e-2, final_rate=final))
