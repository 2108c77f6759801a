import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.data.peaks import Found
from equiscale.sampling import chains as C
from equiscale.sampling import walk_jump as W

KEY, SETTINGS = jax.random.key(0), W.Walk(0.9)
SCHEDULE = C.Schedule(steps=12, jumps=3, warmup=5)
N_BATCHES, BATCH = 2, 3


def sampler(interrupt=lambda where, step: None):
    """Chains of one atom at y, and a place to raise or note at."""

    @jax.jit
    def advance(state, n_steps):
        return W.walk(lambda y: 0.3 * jnp.tanh(y), state, n_steps, KEY, SETTINGS)

    def counted(state, n_steps):
        interrupt("walk", int(state.step))
        return advance(state, n_steps)

    def find(state):
        interrupt("jump", int(state.step))
        one = np.ones(BATCH, np.int32)
        return Found(np.asarray(state.y)[:, None], one[:, None], one[:, None], one, 0 * one, 0.0 * one, one > 0)

    def start(b):
        return W.start(KEY, BATCH * b + jnp.arange(BATCH), (3,), SETTINGS)

    return C.Sampler(start, lambda state: state, counted, find)


def walked(folder, interrupt=lambda where, step: None, stop=lambda: False):
    return C.walk_batches(sampler(interrupt), N_BATCHES, SCHEDULE, folder, stop)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return walked(tmp_path_factory.mktemp("straight") / "parts")


def test_the_jumps_of_a_chain_come_together_and_at_their_steps(straight):
    assert straight.positions.shape == (N_BATCHES * BATCH * SCHEDULE.jumps, 1, 3)
    state = W.start(KEY, jnp.array([4]), (3,), SETTINGS)
    for jump, step in enumerate((17, 29, 41)):
        assert SCHEDULE.step_of(jump) == step
        state = W.walk(lambda y: 0.3 * jnp.tanh(y), state, step - state.step, KEY, SETTINGS)
        np.testing.assert_allclose(straight.positions[4 * 3 + jump, 0], state.y[0], rtol=1e-5)
    assert SCHEDULE.length == 41


class Killed(Exception):
    pass


@pytest.mark.parametrize("what", ["walk", "jump", "write"])
def test_killed_anywhere_it_ends_the_same(what, straight, tmp_path, monkeypatch):
    """Once at each opportunity, one after the other, until it ends."""
    written, countdown, starts = C.write_arrays, None, 0

    def interrupt(where, step):
        nonlocal countdown
        if where == what and countdown is not None:
            countdown -= 1
            if countdown < 0:
                raise Killed

    def write(path, **arrays):
        interrupt("write", 0)
        written(path, **arrays)

    monkeypatch.setattr(C, "write_arrays", write)
    found = None
    while found is None:
        starts += 1
        countdown = 1 + starts % 2  # further than the start before in each second case, so that it does end
        try:
            found = walked(tmp_path / "parts", interrupt)
        except Killed:
            assert starts < 40
    assert starts > 2
    jax.tree.map(np.testing.assert_array_equal, found, straight)


def test_asked_to_stop_it_saves_where_it_is(straight, tmp_path):
    steps, found = [], None
    for _ in range(30):
        found = walked(tmp_path / "parts", lambda where, step: steps.append((where, step)), lambda: True)
        if found is not None:
            break
    jax.tree.map(np.testing.assert_array_equal, found, straight)
    walks = [step for where, step in steps if where == "walk"]
    assert walks == N_BATCHES * [0, 10, 17, 27, 29, 39], "none was walked twice"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "parts" / "0-0.partial").mkdir(parents=True)
    with pytest.raises(OSError, match=r"0-0\.npz cannot be written"):
        walked(tmp_path / "parts")
