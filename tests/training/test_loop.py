import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.tasks.task import Pair, Streamed, Task
from equiscale.training import loop
from equiscale.training.devices import make_mesh
from equiscale.training.instruments import make_instruments
from equiscale.training.run_folder import MetricLog, open_run, read_examples, read_metrics
from equiscale.training.settings import Settings, evaluation_steps

SETTINGS = Settings(steps=12, batch_size=4, learning_rate=1e-2, warmup=2, evaluations=5)
SYMMETRY = es.Symmetry(es.so3.coset(12), es.vectors, es.vectors)


def toy_task(scale=1.0, train="arrays") -> Task:
    """Learn y = x with a matrix that starts without symmetry, from arrays, a stream or three shape buckets."""
    x = jax.random.normal(jax.random.key(0), (10, 5, 3))
    on_host = np.asarray(x)
    sets = {
        "arrays": [x],
        "stream": [Streamed(10, lambda indices: on_host[indices])],
        "buckets": [x[:4, :2], x[4:7], x[7:, :3]],
        "streamed buckets": [
            Streamed(4, lambda indices: on_host[indices, :2]),
            Streamed(3, lambda indices: on_host[4 + indices]),
            Streamed(3, lambda indices: on_host[7 + indices, :3]),
        ],
    }

    return Task(
        name="toy",
        init=lambda key: jax.random.normal(key, (3, 3)),
        train=sets[train],
        sample=lambda rows, key: rows + 0.01 * jax.random.normal(key, rows.shape),
        loss=lambda w, batch, key: scale * jnp.square(batch @ w - batch).sum(),
        validation=[x[:6], x[4:]],
        pair=lambda batch: Pair(batch, batch, jnp.ones(len(batch))),
        predict=lambda w, x: x @ w,
        symmetry=SYMMETRY,
        element_key=jax.random.key(1),
    )


TIMES = ("seconds", "spent", "steps_per_second", "examples_per_second", "flops_per_second", "share_of_peak")


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def test_evaluates_before_the_update_at_log_spaced_steps(tmp_path):
    state = loop.train(toy_task(), SETTINGS, tmp_path, title="toy")
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == sorted(evaluation_steps(SETTINGS)) == [0, 1, 2, 5, 12]
    untrained = toy_task().evaluate(loop.untrained_params(toy_task(), SETTINGS), toy_task().validation[0])
    whole = untrained + toy_task().evaluate(loop.untrained_params(toy_task(), SETTINGS), toy_task().validation[1])
    np.testing.assert_allclose(rows[0]["percent"], whole.percent, rtol=1e-5)
    assert rows[0]["n_examples"] == 12 and rows[0]["training_loss"] is None
    assert rows[-1]["total"] < rows[0]["total"] and int(state.step) == 12
    assert rows[0]["measure"] == "so3.coset(12)"
    for row in rows:  # what is kept of the examples adds up to the row
        examples = read_examples(tmp_path, row["step"])
        for name in ("total", "mean", "equiv"):
            assert np.average(examples[name], weights=examples["weight"]) == pytest.approx(row[name], rel=1e-5)


@pytest.mark.parametrize("train", ["arrays", "stream", "buckets", "streamed buckets"])
def test_an_interrupted_run_ends_bit_identical(train, tmp_path):
    whole = loop.train(toy_task(train=train), SETTINGS, tmp_path / "whole", title="toy")

    class Stop(Exception):
        pass

    task, calls = toy_task(train=train), []
    real = loop.checkpoints.save

    def save_then_die(saved, state, **settings):
        real(saved, state, **settings)
        calls.append(int(state.step))
        if calls[-1] == 2:
            saved.wait_until_finished()
            raise Stop

    loop.checkpoints.save = save_then_die
    try:
        with pytest.raises(Stop):
            loop.train(task, SETTINGS, tmp_path / "parts", title="toy")
    finally:
        loop.checkpoints.save = real
    resumed = loop.train(toy_task(train=train), SETTINGS, tmp_path / "parts", title="toy")
    np.testing.assert_array_equal(resumed.params, whole.params)
    first, second = (timeless(read_metrics(tmp_path / name)) for name in ("whole", "parts"))
    assert first == second
    assert (np.diff([row["seconds"] for row in read_metrics(tmp_path / "parts")]) > 0).all(), "of all starts"
    again = loop.train(toy_task(train=train), SETTINGS, tmp_path / "parts", title="toy")
    np.testing.assert_array_equal(again.params, whole.params)


@pytest.mark.parametrize("arrays, stream", [("arrays", "stream"), ("buckets", "streamed buckets")])
def test_a_stream_is_the_same_training(arrays, stream, tmp_path):
    one, other = (loop.train(toy_task(train=kind), SETTINGS, tmp_path / kind, title=kind) for kind in (arrays, stream))
    np.testing.assert_allclose(one.params, other.params, rtol=1e-6)


@pytest.mark.parametrize("train, shapes", [("arrays", 1), ("stream", 1), ("buckets", 3), ("streamed buckets", 3)])
def test_one_compilation_of_each_part_and_shape(train, shapes, tmp_path):
    traced = []
    task = toy_task(train=train)
    counted = task._replace(
        loss=lambda *a: traced.append("loss") or task.loss(*a),
        pair=lambda batch: traced.append("evaluate") or task.pair(batch),
        sample=lambda *a: traced.append("sample") or task.sample(*a),
    )
    loop.train(counted, SETTINGS, tmp_path, title="toy")
    assert sorted(traced) == ["evaluate", *["loss"] * shapes, *["sample"] * shapes]


def test_runs_of_other_seeds_and_of_fewer_examples_share_their_program():
    """The update is the same to the letter, and so found among the compiled ones."""
    task, mesh = toy_task(), make_mesh()
    fewer = task._replace(train=[task.train[0][:7]])
    runs = [(task, SETTINGS), (task, SETTINGS._replace(seed=1)), (fewer, SETTINGS)]
    texts = {loop.compile_program(of, settings, mesh).updates[0].args[0].as_text() for of, settings in runs}
    assert len(texts) == 1
    faster = loop.compile_program(task, SETTINGS._replace(learning_rate=2e-2), mesh).updates[0].args[0].as_text()
    assert faster not in texts


@pytest.mark.slow  # the instrument is tested in test_watching and test_quickstart
def test_gradients_are_measured_with_the_loss_where_asked_for(tmp_path):
    task = toy_task()
    mesh = make_mesh()
    instruments = make_instruments(("gradients",), task, mesh, examples=4)
    loop.train(task, SETTINGS, tmp_path, title="toy", mesh=mesh, instruments=instruments)
    rows = read_metrics(tmp_path)
    wanted = jax.jit(task.gradients)(loop.untrained_params(task, SETTINGS), task.validation[0][:4])
    np.testing.assert_allclose(rows[0]["gradients"]["gradient_purity"], wanted.norms.purity, rtol=1e-5)
    assert all(row["gradients"]["loss_mean"] > 0 for row in rows)


def test_frozen_parameters_stay_and_a_run_goes_on(tmp_path):
    """Whatever their gradient: weight decay, clipping, averages leave them alone; no moments of them are kept."""
    toy = toy_task()
    task = toy._replace(
        init=lambda key: {"still": toy.init(key), "moving": {"a": jnp.eye(3), "b": jnp.ones(3)}},
        loss=lambda p, batch, key: toy.loss(p["still"] @ p["moving"]["a"] * p["moving"]["b"], batch, key),
        predict=lambda p, x: x @ (p["still"] @ p["moving"]["a"] * p["moving"]["b"]),
        frozen="still*",
    )
    settings = SETTINGS._replace(weight_decay=0.1, clip=1.0, ema_decay=0.5)
    start = loop.untrained_params(task, settings)
    whole = loop.train(task, settings, tmp_path / "whole", title="toy")
    for params in (whole.params, whole.ema):
        np.testing.assert_array_equal(params["still"], start["still"])
        assert all(jnp.abs(params["moving"][k] - start["moving"][k]).max() > 1e-3 for k in "ab")
    arrays = [leaf for leaf in jax.tree.leaves(whole.opt_state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in arrays) == [(3,), (3,), (3, 3), (3, 3)]
    loop.train(task, settings._replace(steps=5), tmp_path / "parts", title="toy")
    resumed = loop.train(task, settings, tmp_path / "parts", title="toy")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    with pytest.raises(ValueError, match="no parameter matches 'encoder/"):
        loop.train(task._replace(frozen="encoder/*"), settings, tmp_path / "wrong", title="toy")


def test_divergence_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match=r"step \d+"):
        loop.train(toy_task(scale=jnp.inf), SETTINGS, tmp_path, title="toy")
    assert (tmp_path / "checkpoints" / "0").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    loop.train(toy_task(), SETTINGS, tmp_path, title="toy")
    task = toy_task()
    other = task._replace(
        init=lambda key: {"w": jnp.zeros((4, 4))},
        loss=lambda p, batch, key: task.loss(p["w"][:3, :3], batch, key),
        predict=lambda p, x: task.predict(p["w"][:3, :3], x),
    )
    with pytest.raises(ValueError, match="of another model"):
        loop.train(other, SETTINGS, tmp_path, title="toy")


def test_a_folder_of_another_config_is_refused_with_the_difference(tmp_path):
    open_run(tmp_path / "run", {"seed": 1})  # what it was started with failed before anything was measured
    open_run(tmp_path / "run", {"seed": 0, "training": {"steps": 5, "shape": (1, 2)}})
    MetricLog(tmp_path / "run", up_to_step=0).write({"step": 0}, {})
    open_run(tmp_path / "run", {"seed": 0, "training": {"steps": 5, "shape": (1, 2)}})
    with pytest.raises(ValueError, match=r"training.steps: 5 in the folder, 6 asked for"):
        open_run(tmp_path / "run", {"seed": 0, "training": {"steps": 6, "shape": (1, 2)}})


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another with --workdir"):
        open_run(tmp_path / "file" / "run", {})


def test_a_cut_last_row_is_dropped_and_a_damaged_one_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"ste')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    path.write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(("evaluations", "steps"), [(1, {0, 12}), (2, {0, 12}), (3, {0, 1, 12}), (4, {0, 1, 3, 12})])
def test_evaluations_are_as_many_as_asked_for(evaluations, steps):
    assert evaluation_steps(Settings(steps=12, batch_size=1, learning_rate=0.1, evaluations=evaluations)) == steps
