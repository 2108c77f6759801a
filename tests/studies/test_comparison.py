"""Two runs whose losses differ by a known factor on every example, as a user compares them."""

import csv
import json
import pathlib

import matplotlib.image
import numpy as np
import pytest

from equiscale.studies.comparison import compare
from equiscale.training.run_folder import write_examples
from experiments.compare import run

CONFIG = {"task": "denoise_voxels", "model": {"preset": "cpu_0.1M"}, "data": {"fraction": 1.0}, "seed": 0}


def write_run(folder, factor=1.0, steps=(0, 1, 10), examples=True, **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    hard = np.random.default_rng(0).gamma(1.0, 1.0, 40)
    rows = []
    for step in steps:
        total = factor * hard / (1 + step)
        row = {
            "step": step,
            "total": total.mean(),
            "total_stderr": total.std(ddof=1) / 40**0.5,
            "percent": 5.0 * factor,
        }
        rows.append(json.dumps(row))
        if examples:
            write_examples(folder, step, {"weight": np.ones(40), "total": total})
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_a_factor_is_found_without_error_at_every_step_of_both(tmp_path, capsys):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", 0.5, steps=(0, 10, 20), model={"preset": "cpu_0.3M"}, data={"fraction": 0.1})
    found = compare(a, b)
    assert [row["step"] for row in found.rows] == [0, 10] and found.n_examples == 40
    for row in found.rows:
        assert [row[name] for name in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([0.5] * 3)
        assert row["loss_b"] == pytest.approx(row["loss_a"] / 2) and row["percent_b"] == 2.5
    assert found.differences == {"model.preset": ("cpu_0.1M", "cpu_0.3M"), "data.fraction": (1.0, 0.1)}
    assert found.doubtful == ["data.fraction"]
    run(a, b, tmp_path / "output")
    told = capsys.readouterr().out
    assert "40 validation examples, drawn together" in told and "0.500 (0.500 to 0.500)" in told
    assert "model.preset: 'cpu_0.1M' | 'cpu_0.3M'" in told and "By data.fraction their validation examples" in told
    with (tmp_path / "output" / "comparison.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "10"]
    assert matplotlib.image.imread(tmp_path / "output" / "comparison.png").std() > 0.01


def test_without_losses_by_example_errors_are_independent_and_said_to_be(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", 0.5, examples=False)
    run(a, b, tmp_path / "output")
    assert "errors of both drawn independently" in capsys.readouterr().out
    (row, *_) = compare(a, b).rows
    width = np.log(row["ratio_high"] / row["ratio_low"]) / (2 * 1.96)
    assert width == pytest.approx(2**0.5 * 1.0 / 40**0.5, rel=0.25)  # relative errors of both, of an exponential


def test_what_cannot_be_compared_is_named(tmp_path):
    a = write_run(tmp_path / "a")
    with pytest.raises(ValueError, match=r"a run of denoise_voxels and .* one of flow_chains"):
        compare(a, write_run(tmp_path / "b", task="flow_chains"))
    with pytest.raises(ValueError, match="no step in common"):
        compare(a, write_run(tmp_path / "c", steps=(2, 5)))
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist: name folders of runs"):
        compare(a, pathlib.Path(tmp_path / "nothing"))
