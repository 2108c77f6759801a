"""Stopped, killed or damaged, a run ends bit-identical to one that was left alone, and says what happened."""

import errno
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.training import checkpoints, loop
from equiscale.training.interrupt import Stopped
from equiscale.training.run_folder import MetricLog, read_metrics
from tests.training.test_loop import SETTINGS, timeless, toy_task
from tests.training.toy_run import LONG

ROOT = pathlib.Path(__file__).parents[2]


def same_end(folder, whole):
    assert timeless(read_metrics(folder)) == timeless(read_metrics(whole))
    with np.load(folder / "end.npz") as a, np.load(whole / "end.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])


def start(folder):
    command = [sys.executable, "-m", "tests.training.toy_run", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    began = time.time()
    process = start(folder)
    assert process.wait() == 0, process.stderr.read()[-2000:]
    return folder, time.time() - began


def soak(folder, whole, kills, seed):
    """Kill at random moments of the run until `kills` of them have hit, then let it end; how many hit."""
    uninterrupted, seconds = whole
    rng, done = random.Random(seed), 0
    while done < kills:
        process = start(folder)
        try:
            process.wait(timeout=rng.uniform(0.4, 1) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        else:  # it ended first: begin again
            assert process.returncode == 0, process.stderr.read()[-2000:]
            same_end(folder, uninterrupted)
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    process = start(folder)
    assert process.wait() == 0, process.stderr.read()[-2000:]
    return done


@pytest.mark.slow  # interrupted runs are tested in test_loop, SIGTERM here
def test_killed_at_random_moments_it_ends_the_same(whole, tmp_path):
    assert soak(tmp_path, whole, kills=3, seed=0) == 3
    same_end(tmp_path, whole[0])


@pytest.mark.slow
def test_killed_twenty_times_it_ends_the_same(whole, tmp_path):
    assert soak(tmp_path, whole, kills=20, seed=1) == 20
    same_end(tmp_path, whole[0])


def test_sigterm_saves_and_leaves_and_the_handler_before_comes_back(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    straight = loop.train(toy_task(), SETTINGS, tmp_path / "whole", title="toy")
    write = MetricLog.write

    def write_and_ask(log, row, examples):
        write(log, row, examples)
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(MetricLog, "write", write_and_ask)
    with pytest.raises(Stopped) as stopped:
        loop.train(toy_task(), SETTINGS, tmp_path / "parts", title="toy")
    assert stopped.value.step == 5 and stopped.value.code == 143
    assert checkpoints.saved_steps(tmp_path / "parts")[-1] == 5
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    resumed = loop.train(toy_task(), SETTINGS, tmp_path / "parts", title="toy")
    np.testing.assert_array_equal(resumed.params, straight.params)
    assert timeless(read_metrics(tmp_path / "parts")) == timeless(read_metrics(tmp_path / "whole"))


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(damage, tmp_path, caplog):
    settings = SETTINGS._replace(steps=5, keep=None)
    loop.train(toy_task(), settings, tmp_path, title="toy")
    rows = timeless(read_metrics(tmp_path))
    last = tmp_path / "checkpoints" / "5"
    for path in list((last / "default").rglob("*")):
        if path.is_file():
            if damage == "cut":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            elif damage == "garbage":
                path.write_bytes(os.urandom(path.stat().st_size))
            else:
                path.unlink()
    state = loop.train(toy_task(), settings, tmp_path, title="toy")
    assert int(state.step) == 5
    assert "checkpoint 5 cannot be read" in caplog.text and "the one before is used" in caplog.text
    assert (tmp_path / "damaged" / "5").exists() and checkpoints.saved_steps(tmp_path)[-1] == 5
    assert timeless(read_metrics(tmp_path)) == rows


def test_divergence_names_step_group_and_checkpoint_and_skipping_counts(tmp_path):
    """Adam moves the group "b" below 0, where its square root has no gradient, after a few steps."""
    task = toy_task()._replace(
        init=lambda key: {"a": jax.random.normal(key, (3, 3)), "b": jnp.full(2, 3e-2)},
        loss=lambda p, batch, key: jnp.square(batch @ p["a"] - batch).sum() + 1e-3 * (p["b"] ** 0.5).sum(),
        predict=lambda p, x: x @ p["a"],
    )
    with pytest.raises(FloatingPointError) as error:
        loop.train(task, SETTINGS, tmp_path / "stops", title="toy")
    message = str(error.value)
    assert "at step 3" in message or "at step 4" in message, message
    assert "gradient of b is" in message and "last good checkpoint is step 2" in message
    state = loop.train(task, SETTINGS._replace(skip_nonfinite=True), tmp_path / "skips", title="toy")
    rows = read_metrics(tmp_path / "skips")
    assert rows[-1]["skipped"] == int(state.skipped) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_what_is_kept_and_what_is_averaged(tmp_path):
    settings = SETTINGS._replace(evaluations=8, keep=1, keep_best=1, ema_decay=0.5, learning_rate=3e-1)
    state = loop.train(toy_task(), settings, tmp_path, title="toy")
    rows = read_metrics(tmp_path)
    best = min(rows, key=lambda row: row["total"])["step"]
    assert checkpoints.saved_steps(tmp_path) == sorted({best, 12})
    assert all(row["ema"]["total"] > 0 for row in rows) and rows[0]["ema"]["total"] == rows[0]["total"]
    _, averaged = checkpoints.restore_params(tmp_path, averaged=True)
    traced = jax.jit(lambda: checkpoints.restore_params(tmp_path, averaged=True)[1])()
    jax.tree.map(np.testing.assert_array_equal, traced, averaged)
    np.testing.assert_array_equal(averaged, state.ema)
    loop.train(toy_task(), SETTINGS, tmp_path / "plain", title="toy")
    with pytest.raises(ValueError, match="no averaged parameters"):
        checkpoints.restore_params(tmp_path / "plain", averaged=True)


def test_the_average_is_exponential(tmp_path):
    """With keep=None and a checkpoint each step, ema_t = d ema_{t-1} + (1 - d) params_t."""
    settings = SETTINGS._replace(steps=4, save_every=1, keep=None, ema_decay=0.7)
    loop.train(toy_task(), settings, tmp_path, title="toy")
    average = checkpoints.restore_params(tmp_path, 0)[1]
    for step in range(1, 5):
        average = 0.7 * average + 0.3 * checkpoints.restore_params(tmp_path, step)[1]
        np.testing.assert_allclose(checkpoints.restore_params(tmp_path, step, averaged=True)[1], average, rtol=1e-5)


def test_rows_say_where_time_went(tmp_path):
    loop.train(toy_task(), LONG._replace(steps=20), tmp_path, title="toy")
    row = read_metrics(tmp_path)[-1]
    assert set(row["spent"]) == {"compile", "train", "evaluate", "save", "profile"}
    assert sum(row["spent"].values()) <= row["seconds"] * 1.01
    assert row["steps_per_second"] > 0 and row["flops_per_second"] > 0 and row["share_of_peak"] is None


def test_a_full_disk_is_named_and_loses_nothing(tmp_path, monkeypatch):
    straight = loop.train(toy_task(), SETTINGS, tmp_path / "whole", title="toy")
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr("equiscale.training.run_folder.os.fsync", full)
    with pytest.raises(OSError, match=r"metrics\.jsonl cannot be written .*No space left"):
        loop.train(toy_task(), SETTINGS, tmp_path / "full", title="toy")
    monkeypatch.undo()
    resumed = loop.train(toy_task(), SETTINGS, tmp_path / "full", title="toy")
    np.testing.assert_array_equal(resumed.params, straight.params)
    assert timeless(read_metrics(tmp_path / "full")) == timeless(read_metrics(tmp_path / "whole"))
