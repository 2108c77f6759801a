"""What is measured of samples of chains, and the reports of flows by flow time and by arm."""

import json

import matplotlib.image
import pytest

from equiscale.data.synthetic_chains import synthetic_chains
from equiscale.studies import chain_samples, flow_times_report, samples_by_arm
from tests.commands import start


@pytest.fixture(scope="module")
def made():
    return synthetic_chains(12, 24), synthetic_chains(6, 24, seed=1)


def test_samples_are_measured_beside_references(made, tmp_path):
    samples, references = made
    record = chain_samples.measure(samples, references, seed=0)
    same = chain_samples.measure(references, references, seed=0)
    assert record["folds"]["24"]["nearest_reference"] < 0.9 < same["folds"]["24"]["nearest_reference"]
    assert record["samples"]["clashes"] == 0 and "24" in record["invariance"] and not same["invariance"]
    assert any("energy distance" in line for line in chain_samples.sentences(record))
    chain_samples.figure(samples, references, "synthetic").savefig(tmp_path / "chains.png")
    assert matplotlib.image.imread(tmp_path / "chains.png").std() > 0.01
    (tmp_path / "generate.json").write_text(json.dumps({"measured": record}))
    invariance, geometry = samples_by_arm.sections(
        tmp_path, {"one": [tmp_path], "two": [tmp_path] * 2}, "generate.json"
    )
    assert "two, run 2" in invariance[1] and "references" in geometry[1]
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 1 + 3 * 2


def test_gradients_that_shrink_as_a_power_of_the_loss_correlate_fully(tmp_path):
    def row(step, power):
        ratio = 0.5 ** (step + 1)
        of_time = {"loss_mean": 2.0, "loss_equiv": 2 * ratio, "gradient_cosine": 0.0}
        return of_time | {"gradient_mean": 3.0, "gradient_equiv": 3 * ratio**power}

    curve = [{"step": i, "gradients_by_time": {"0": row(i, 0.5), "0.9": row(i, -1.0)}} for i in range(4)]
    _, found = flow_times_report.gradient_ratios({"micro": curve}, "flows")
    assert found["micro"] == {"0": pytest.approx(1), "0.9": pytest.approx(-1)}
    _, body = flow_times_report.gradient_section(tmp_path, {"micro": curve}, "flows")
    assert "1.00" in body and (tmp_path / "gradients_by_time.png").exists()


def test_percents_by_flow_time_are_averaged_over_seeds(tmp_path):
    def row(step, percent):
        values = {"total": 2.0, "equiv": 0.02 * percent, "percent": percent, "percent_reducible": 2 * percent}
        of_time = values | {f"{name}_stderr": 0.1 for name in values}
        return {"step": step, "times": {"0": of_time, "0.9": {**of_time, "percent": 3 * percent}}}

    runs = {"small": [[row(0, 20.0), row(5, 2.0)], [row(0, 22.0), row(5, 4.0)]], "large": [[row(0, 10.0), row(5, 1.0)]]}
    curve = flow_times_report.averaged(runs["small"])
    assert (
        [r["step"] for r in curve] == [0, 5] and curve[1]["0"]["percent"] == 3.0 and curve[1]["0.9"]["percent"] == 9.0
    )
    assert curve[1]["0"]["percent_stderr"] == pytest.approx((0.1**2 + 1.0) ** 0.5, rel=0.01)
    _, ends = flow_times_report.sections(tmp_path, runs, "flows")
    assert "3 ±" in ends[1] and (tmp_path / "times_along.png").exists() and (tmp_path / "times.png").exists()
    assert len((tmp_path / "times.csv").read_text().splitlines()) == 1 + 2 * 2 * 2


@pytest.mark.slow  # its parts are tested here, in tests/sampling and in tests/tasks
def test_a_run_generates_chains_as_a_user_starts_it(tmp_path):
    fields = ("--config=configs/flow_chains.py", "--config.preset=smoke")
    result = start(*fields, f"--workdir={tmp_path / 'run'}", module="train")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "synthetic chains, not real proteins" in result.stdout and "184,608  parameters" in result.stdout
    asked = (f"--workdir={tmp_path / 'run'}", "--chains=10", "--steps=3", "--batch=6", "--lengths=24,16")
    for _ in range(2):  # finished, it measures again what is there
        result = start(*asked, module="generate_chains")
        assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "run" / "generated" / "samples"
    assert len(list((folder / "pdb").iterdir())) == 10 and len(list((folder / "parts").iterdir())) == 2
    record = json.loads((folder / "generate.json").read_text())
    assert record["settings"]["averaged"] and set(record["measured"]["folds"]) == {"16", "24"}
    wrong = start(*asked, "--steps=5", module="generate_chains")
    assert wrong.returncode != 0 and "give these samples another --name" in wrong.stderr
