"""What a run lets one see: TensorBoard, traces, instruments, and what it says where it cannot write."""

import fnmatch
import gzip
import json
import pathlib
import re
import struct

import jax
import numpy as np
import pytest

from equiscale.tasks.property_scores import Property, property_score
from equiscale.tasks.task import Latent
from equiscale.training import loop
from equiscale.training.devices import make_mesh
from equiscale.training.instruments import make_instruments
from equiscale.training.run_folder import read_metrics
from tests.training.test_loop import SETTINGS, timeless, toy_task
from tests.training.test_parallel import wide_task


def scalars(folder):
    """(name, step, value) of every scalar in the event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((folder / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value
            at += 12 + length + 4


def test_tensorboard_holds_each_row_once_also_after_going_on(tmp_path):
    half = SETTINGS._replace(steps=5, ema_decay=0.5)
    loop.train(toy_task(), half, tmp_path, title="toy", tensorboard=True)
    loop.train(toy_task(), SETTINGS._replace(ema_decay=0.5), tmp_path, title="toy", tensorboard=True)
    found = list(scalars(tmp_path))
    rows = read_metrics(tmp_path)
    for name, of in (("percent", lambda row: row["percent"]), ("ema/total", lambda row: row["ema"]["total"])):
        curve = [(step, value) for tag, step, value in found if tag == name]
        assert [step for step, _ in curve] == [row["step"] for row in rows]
        np.testing.assert_allclose([value for _, value in curve], [of(row) for row in rows], rtol=1e-6)


def test_a_trace_names_the_steps_it_is_of(tmp_path):
    state = loop.train(toy_task(), SETTINGS, tmp_path / "traced", title="toy", profile=(3, 6))
    plain = loop.train(toy_task(), SETTINGS, tmp_path / "plain", title="toy")
    np.testing.assert_array_equal(state.params, plain.params)
    (trace,) = (tmp_path / "traced" / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "train"}
    assert steps == {"3", "4", "5"}


def test_any_function_of_the_parameters_is_an_instrument(tmp_path):
    loop.train(
        toy_task(), SETTINGS, tmp_path, title="toy", instruments={"size": lambda w: {"norm": float(abs(w).max())}}
    )
    rows = read_metrics(tmp_path)
    norm = float(abs(loop.untrained_params(toy_task(), SETTINGS)).max())
    assert rows[0]["size"]["norm"] == pytest.approx(norm) and rows[-1]["size"]["norm"] != rows[0]["size"]["norm"]


def test_hessians_at_evaluations_agree_with_their_closed_form(tmp_path):
    """f(x) = x W with twirl x tr(W)/3: all Hessians have the one eigenvalue 2/3 sum x^2 / n besides 0; the total's
    9 times, the mean's once, the equivariance error's 8 times."""
    toy = toy_task()
    task = toy._replace(
        init=lambda key: {"w": jax.random.normal(key, (3, 3))},
        loss=lambda p, batch, key: toy.loss(p["w"], batch, key),
        predict=lambda p, x: x @ p["w"],
    )
    instruments = make_instruments(("extremes", "spectrum"), task, make_mesh(), examples=4, only="*")
    loop.train(task, SETTINGS._replace(evaluations=2), tmp_path, title="toy", instruments=instruments)
    x = np.asarray(task.train[0][:4], np.float64)
    eigenvalue = 2 / 3 * np.square(x).sum() / (4 * 15)
    for row in read_metrics(tmp_path):
        extremes, spectrum = row["extremes"], row["spectrum"]
        for part, rank in (("total", 9), ("mean", 1), ("equiv", 8)):
            assert extremes[part]["largest"] == pytest.approx(eigenvalue, rel=1e-5)
            if part in spectrum:
                assert spectrum[part]["largest"] == pytest.approx(eigenvalue, rel=1e-5)
                assert spectrum[part]["rank"] == rank
        assert extremes["only"] == "*" and extremes["examples"] == 4


def documented():
    """Patterns of names of fields, as docs/metrics.md lists them."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall("`(.+?)`", cell)]


def matched(row, patterns):
    """The patterns that fields of a row match, each field at least one."""
    found = set()
    for path, _ in jax.tree_util.tree_leaves_with_path(row, is_leaf=lambda x: x is None):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        matching = [p for p in patterns if fnmatch.fnmatch(name, re.sub("<.+?>", "*", p))]
        assert matching, f"{name} is not in docs/metrics.md"
        found.update(matching)
    return found


def test_every_field_of_a_row_is_documented_and_the_other_way_round(tmp_path):
    patterns = [
        name
        for name in documented()
        if not name.startswith(("errors.", "head.", "attention.", "times.", "gradients_by_time.", "gradient_noise."))
    ]
    first, task = Property("first", "m", "vector", 2.0, lambda x: x[:, 0]), wide_task()
    score = property_score(task.predict, task.pair, task.symmetry, (first,), task.element_key)
    task = task._replace(scores={"properties": score}, latent=Latent(task.predict, task.symmetry.act_out))
    names = ("gradients", "extremes", "spectrum", "alignment", "properties")
    instruments = make_instruments(names, task, make_mesh(), examples=2, only="b")
    narrow = task._replace(
        init=lambda key: jax.tree.map(lambda a: a[:8] if a.shape[0] > 8 else a[:, :8], task.init(key))
    )
    settings = SETTINGS._replace(steps=1, ema_decay=0.5)
    loop.train(narrow, settings, tmp_path, title="toy", instruments=instruments)
    assert set(patterns) - matched(read_metrics(tmp_path)[-1], patterns) == {
        "percent_reducible",
        "percent_reducible_stderr",
    }


def test_an_unknown_instrument_is_named():
    with pytest.raises(ValueError, match="instrument 'hessian' is none of gradients, extremes, spectrum, alignment"):
        make_instruments(("hessian",), toy_task(), make_mesh(), examples=2)
    with pytest.raises(ValueError, match=r"instrument 'properties' is none of .* which 'toy' has"):
        make_instruments(("properties",), toy_task(), make_mesh())


def test_a_folder_that_can_no_longer_be_written_is_named_and_loses_nothing(tmp_path):
    """Its checkpoints are replaced by a file during the run: what a superuser's tests can do instead of read-only."""
    straight = loop.train(toy_task(), SETTINGS, tmp_path / "whole", title="toy")
    folder, aside = tmp_path / "run" / "checkpoints", tmp_path / "aside"
    evaluations = []

    def take_away(params):
        evaluations.append(1)
        if len(evaluations) == 4:
            folder.rename(aside)
            folder.write_text("")
        return {}

    with pytest.raises(OSError, match=f"cannot save to {folder}"):
        loop.train(toy_task(), SETTINGS, tmp_path / "run", title="toy", instruments={"thief": take_away})
    folder.unlink()
    aside.rename(folder)
    resumed = loop.train(toy_task(), SETTINGS, tmp_path / "run", title="toy", instruments={"thief": lambda params: {}})
    np.testing.assert_array_equal(resumed.params, straight.params)
    rows = [{k: v for k, v in row.items() if k != "thief"} for row in timeless(read_metrics(tmp_path / "run"))]
    assert rows == timeless(read_metrics(tmp_path / "whole"))
