"""Flow matching of chains as a task: its losses, what stays measured at every flow time, and mean targets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.models import flow_path as path
from equiscale.models.flow_transformer import PRESETS, Flow, FlowTransformer
from equiscale.tasks import flow_chains
from equiscale.tasks.chain_sets import ChainRows
from equiscale.tasks.flow_chains import make_task
from equiscale.tasks.gradient_noise import gradient_spread
from tests.training.test_watching import documented, matched

MEASURE = es.so3.haar(4)


def rows(n=6, length=8, seed=0):
    """Random walks of some lengths, centred: shapes for tests, no proteins."""
    rng = np.random.default_rng(seed)
    sizes = length - np.arange(n) % 3
    real = np.arange(length) < sizes[:, None]
    x = np.where(real[..., None], np.cumsum(rng.normal(0, 0.3, (n, length, 3)), axis=1), 0)
    x = np.where(real[..., None], x - x.sum(1, keepdims=True) / sizes[:, None, None], 0)
    index = np.where(real, np.arange(1, length + 1), 0)
    return ChainRows(*map(jnp.asarray, (x.astype(np.float32), index, real & False, np.arange(n), np.ones(n))))


class Plain(nn.Module):
    """Velocities a x + b x |x|^2, seeing a guess as well, with no symmetry broken but by a shift along x."""

    shift: float = 0.0

    @nn.compact
    def __call__(self, chain):
        a, b, c = self.param("abc", nn.initializers.constant(0.1), (3,))
        x = chain.positions
        velocity = a * x + b * x * jnp.square(x).sum(-1, keepdims=True) + c * chain.guess
        velocity += self.param("shift", nn.initializers.constant(self.shift), ()) * jnp.array([1.0, 0, 0])
        return Flow(jnp.where(chain.mask[..., None], velocity, 0), None)


def make(model=None, **changes):
    settings = {"model": model or Plain(), "measure": MEASURE, "evaluation_batch": 4, "seed": 0, "self_conditioning": 0}
    return make_task([rows()], rows(5, seed=1), **settings | changes)


def test_the_loss_is_the_published_one_by_hand():
    task = make(augmentation="none")
    params = jax.jit(task.init)(jax.random.key(0))
    batch = task.sample(task.train[0], jax.random.key(1))
    velocity = task.predict(params, batch.x)
    expected = []
    for i, t in enumerate(np.asarray(batch.x.time)):
        n = int(batch.x.mask[i].sum())
        error = velocity[i, :n] - (batch.clean[i, :n] - batch.noise[i, :n])
        expected.append((1 - t) ** 2 / ((1 - t) ** 2 + 1e-5) * float(jnp.square(error).sum()) / (3 * n))
    assert float(task.loss(params, batch, jax.random.key(2))) == pytest.approx(np.mean(expected), rel=1e-5)
    np.testing.assert_allclose(batch.noise.sum(1), 0, atol=1e-5)
    np.testing.assert_array_equal(batch.clean, task.train[0].positions)


def test_a_guess_of_its_own_is_seen_in_some_batches():
    task, always = make(self_conditioning=0.5), make(self_conditioning=1.0)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = task.sample(task.train[0], jax.random.key(1))
    first = path.to_clean(task.predict(params, batch.x), batch.x.positions, batch.x.time)
    seen = batch.x._replace(guess=first, guessed=jnp.ones(6))
    without = float(make().loss(params, batch, jax.random.key(0)))
    (within,) = {float(always.loss(params, batch, jax.random.key(k))) for k in range(2)}
    error = path.mean_square(task.predict(params, seen) - (batch.clean - batch.noise), batch.x.mask)
    assert within == pytest.approx(float((path.weight(batch.x.time) * error).mean()), rel=1e-5)
    found = {round(float(task.loss(params, batch, jax.random.key(k))), 6) for k in range(12)}
    assert found == {round(without, 6), round(within, 6)}


def test_every_flow_time_is_measured_as_if_it_were_the_only_one():
    """Equivariant but for a shift: equiv is that shift's square at any time, here a third of it per coordinate."""
    task = make(Plain(shift=0.3))
    params = jax.jit(task.init)(jax.random.key(0))
    found = [jax.jit(task.scores["times"].measure)(params, batch) for batch in task.validation]
    record = task.scores["times"].record(jax.device_get(found))
    matched({"times": record}, documented())
    assert list(record) == ["0", "0.2", "0.4", "0.6", "0.8", "0.9", "0.95", "0.99"]
    for t in ("0", "0.6", "0.95"):
        row, alone = record[t], make(Plain(shift=0.3), time=float(t))
        one = alone.evaluate(params, alone.validation[0]) + alone.evaluate(params, alone.validation[1])
        for name in ("total", "equiv", "percent", "percent_reducible", "percent_stderr"):
            assert row[name] == pytest.approx(float(getattr(one, name)), rel=1e-4), (t, name)
        assert row["equiv"] == pytest.approx(0.03, rel=0.3) and row["percent_reducible"] > row["percent"]
        assert row["total_of_clean"] == pytest.approx(row["total"] * (1 - float(t)) ** 2)


def test_gradients_at_a_flow_time_are_those_of_its_decomposition():
    task = make(Plain(shift=0.3), times=(0.0, 0.9))
    params = jax.jit(task.init)(jax.random.key(0))
    score, batch = task.scores["gradients_by_time"], task.validation[0]
    record = score.record([jax.device_get(jax.jit(score.measure)(params, batch))] * 2)
    matched({"gradients_by_time": record}, documented())
    assert list(record) == ["0", "0.9"]
    alone = jax.jit(make(Plain(shift=0.3), time=0.9).gradients)(params, batch).record()
    for name, value in record["0.9"].items():
        assert value == pytest.approx(alone[name], rel=1e-3), name


@pytest.mark.parametrize("augmentation", ["haar", "cube"])
def test_mean_targets_teach_the_same_with_less_noise(augmentation):
    """Their gradient differs from that of plain targets by something of mean 0, and varies less."""
    one = jax.tree.map(lambda a: jnp.repeat(a[:1], 3_000, axis=0), rows())
    plain, mean = (make(target=target, augmentation=augmentation) for target in ("plain", "rao_blackwell"))
    params = jax.jit(plain.init)(jax.random.key(0))
    batch = plain.sample(one, jax.random.key(1))

    def gradients(task):
        each = jax.tree.map(lambda a: a[:, None], batch)
        of_one = jax.grad(lambda p, b: task.loss(p, b, jax.random.key(0)))
        return np.asarray(jax.vmap(of_one, (None, 0))(params, each)["abc"])[:, :2]

    first, second = gradients(plain), gradients(mean)
    difference = first - second
    assert (abs(difference.mean(0)) < 4 * difference.std(0) / np.sqrt(len(difference))).all()
    assert (second.var(0) < first.var(0)).all(), "the law of total variance"


def test_gradient_noise_is_the_variance_over_draws(monkeypatch):
    """Of a loss whose gradient is a known random vector: the trace of its covariance, and its mean's square."""
    scale, mean = jnp.array([1.0, 0.5, 2.0]), jnp.array([3.0, 0.0, 1.0])

    def loss(params, key):
        return params["a"] @ (mean + scale * jax.random.normal(key, (3,)))

    found = jax.jit(lambda p: gradient_spread(loss, p, jax.random.key(0), 4_000))({"a": jnp.zeros(3)})
    assert float(found.variance) == pytest.approx(5.25, rel=0.05) and float(found.signal) == pytest.approx(10, rel=0.05)
    monkeypatch.setattr(flow_chains, "gradient_spread", functools.partial(gradient_spread, draws=2_000))
    task = make(model=Plain(shift=0.3))
    spread = jax.jit(task.scores["gradient_noise"].measure)(task.init(jax.random.key(0)), task.validation[0])
    record = task.scores["gradient_noise"].record([jax.device_get(spread)] * 2)
    matched({"gradient_noise": record}, documented())
    assert record["plain"]["ratio"] == 1 and 0 < record["rao_blackwell"]["ratio"] < 1
    assert "gradient_noise" not in make(augmentation="none").scores, "mean targets are for turned chains"


def test_the_distogram_is_a_cross_entropy_of_distances():
    chains = rows(2, 4)
    logits = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    mask = chains.index > 0
    found = flow_chains.distogram_loss(logits, chains.positions, mask)
    for i in range(2):
        n, terms = int(mask[i].sum()), []
        for a in range(n):
            for b in range(n):
                d = float(jnp.linalg.norm(chains.positions[i, a] - chains.positions[i, b]))
                kind = sum(limit < d for limit in np.linspace(0, 1, 5))
                terms.append(-float(jax.nn.log_softmax(logits[i, a, b])[kind]))
        assert float(found[i]) == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("update_every", [pytest.param(0, marks=pytest.mark.slow), 1])  # updates have all of it
def test_proteinas_network_trains_on_it_with_and_without_updates_of_pairs(update_every):
    model = FlowTransformer(**PRESETS["micro"] | {"width": 32, "n_heads": 2, "update_every": update_every})
    task = make(model, self_conditioning=0.5)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = task.sample(task.train[0], jax.random.key(1))
    value, slope = jax.jit(jax.value_and_grad(task.loss))(params, batch, jax.random.key(3))
    assert np.isfinite(value) and all(np.isfinite(a).all() for a in jax.tree.leaves(slope))
    assert (float(value) > 4) == (update_every > 0), "log 64 more where distances are predicted"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"target": "mean"}, "target 'mean' is none of plain, rao_blackwell"),
        ({"augmentation": "spin"}, "augmentation 'spin' is none of"),
        ({"target": "rao_blackwell", "augmentation": "none"}, "for chains turned by haar or cube"),
        ({"time": 1.0}, "flow times from 0 to below 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        make(**changes)
