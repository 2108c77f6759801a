"""Two arms whose losses are power laws of the step: what is compared is known in closed form."""

import csv
import json

import numpy as np
import pytest

from equiscale.studies.alternatives import read_alternatives
from equiscale.studies.crossings import NEVER
from equiscale.studies.efficiency_gap import efficiency_gap, paragraph
from equiscale.studies.efficiency_gap_report import gap_figure, section

NAMES = ("plain", "steerable")


def curve(scale, flop, seconds, equiv=0.0, stderr=0.0, steps=(0, 1, 10, 100, 1000), power=0.5):
    """total = scale / step^power, relative standard error `stderr`, `equiv` a share of it."""
    rows = []
    for step in steps:
        total = scale * max(step, 0.5) ** -power
        row = {"step": step, "total": total, "equiv": equiv * total, "equiv_stderr": 0.1 * equiv * total}
        rows.append(row | {"total_stderr": stderr * total, "flop": flop * step, "train_seconds": seconds * step})
    return rows


PLAIN = curve(8.0, flop=1e9, seconds=0.1, equiv=0.02)


def test_equal_costs_are_those_of_the_power_laws():
    """Half the loss at equal steps, a step 3 times as slow: at equal time 1/2 sqrt(3) of it; FLOP 16 times: twice."""
    gap = efficiency_gap(NAMES, PLAIN, curve(4.0, flop=1.6e10, seconds=0.3))
    for cost, ratio in {"step": 0.5, "flop": 2.0, "train_seconds": 0.5 * np.sqrt(3)}.items():
        match = gap.matches[cost]
        assert match.ratio == pytest.approx((ratio,) * 3) and match.share == pytest.approx(1)
        assert match.at == PLAIN[-1][cost] and match.plain == pytest.approx(gap.loss)
    # The equivariant arm gets there in a fourth of the steps, whatever they cost.
    assert gap.reached == pytest.approx((250.0,) * 3)
    even = gap.break_even["train_seconds"]
    assert even.ratio == pytest.approx(3) and even.margin == pytest.approx((4 / 3,) * 3)
    assert gap.break_even["flop"].margin.value == pytest.approx(1 / 4)
    assert gap.penalty.value == pytest.approx(0.02 * gap.loss)
    assert gap.penalty.high - gap.penalty.low == pytest.approx(2 * 1.96 * 0.1 * 0.02 * gap.loss)
    text = " ".join(paragraph(gap))
    assert "the equivariant arm (steerable) pays at equal time: after 100 seconds of training (the plain arm's" in text
    assert "2 % (1.6 to 2.4 %)" in text and "It needs 250 steps (250 to 250) for what takes plain 1000" in text
    assert "takes 3 times the time of a plain one's; it breaks even at 4 times, which is 1.3 (1.3 to 1.3)" in text
    assert "At equal FLOP its loss is 2.00 (2.00 to 2.00) times" in text


def test_errors_of_both_arms_add_up():
    """The log of a ratio has the variance of both; the step at which a level is reached their sum over the power."""
    gap = efficiency_gap(NAMES, curve(8.0, 1e9, 0.1, stderr=0.06), curve(4.0, 1e9, 0.1, stderr=0.08))
    for interval, error in ((gap.matches["step"].ratio, 0.1), (gap.reached, 0.2)):
        ends = np.log(np.array(interval[1:]) / interval.value)
        np.testing.assert_allclose(ends, [-1.96 * error, 1.96 * error], rtol=0.12)


def test_an_answer_may_be_no_or_none():
    close = efficiency_gap(NAMES, PLAIN, curve(8.0, 1e9, 0.11, stderr=0.1))
    assert "may or may not pay at equal time" in paragraph(close)[0]
    worse = efficiency_gap(NAMES, PLAIN, curve(16.0, 2e9, 0.3))
    text = " ".join(paragraph(worse))
    assert "does not pay at equal time" in text and worse.reached.value == NEVER
    assert "It does not reach the last loss of plain in 1000 steps." in text
    assert "takes 3 times the time of a plain one's, and it would have to take at least 3 times less" in text
    better = efficiency_gap(NAMES, PLAIN, curve(0.01, 1e9, 0.3))
    assert better.reached.value == 0 and "no cost of a step is too high" in " ".join(paragraph(better))


def test_nothing_is_extrapolated():
    """An arm whose first evaluation comes after all the other's seconds; one that has no seconds at all."""
    slow = efficiency_gap(NAMES, PLAIN, curve(4.0, 1e9, 1e3))
    assert slow.matches["train_seconds"] is None and slow.matches["step"] is not None
    text = " ".join(paragraph(slow))
    assert "There is no number of seconds of training that both arms cover." in text and "pays at equal FLOP" in text
    short = efficiency_gap(NAMES, PLAIN, curve(4.0, 1e9, 0.1, steps=(0, 1, 100)))
    assert short.matches["step"].at == 100 and short.matches["step"].ratio.value == pytest.approx(0.5)
    assert "10 % of the plain arm's" in paragraph(short)[0]
    bare = [{k: v for k, v in row.items() if k not in ("flop", "train_seconds")} for row in PLAIN]
    assert list(efficiency_gap(NAMES, bare, PLAIN).matches) == ["step"]
    with pytest.raises(ValueError, match="steerable has fewer than 2 evaluations"):
        efficiency_gap(NAMES, PLAIN, PLAIN[:2])
    with pytest.raises(ValueError, match="plain has losses that are not positive"):
        efficiency_gap(NAMES, [PLAIN[0], *({**row, "total": 0.0} for row in PLAIN[1:])], PLAIN)


def test_the_section_has_the_numbers_in_a_file_and_the_points_in_the_figure(tmp_path):
    equivariant = curve(4.0, flop=1.6e10, seconds=0.3)
    (heading, body), answer = section(tmp_path, NAMES, PLAIN, equivariant, "A title")
    assert heading == "Would it pay?" and answer in body.replace("&#x27;", "'") and "<img" in body
    with (tmp_path / "efficiency_gap.csv").open() as file:
        rows = {row["cost"]: row for row in csv.DictReader(file)}
    assert float(rows["flop"]["ratio"]) == pytest.approx(2) and float(rows["flop"]["margin"]) == pytest.approx(0.25)
    assert rows["step"]["margin"] == "" and (tmp_path / "efficiency_gap.pdf").exists()
    gap = efficiency_gap(NAMES, PLAIN, equivariant)
    figure = gap_figure(gap, PLAIN, equivariant, "A title")
    (star,) = (line for line in figure.axes[2].lines if line.get_marker() == "*")
    assert star.get_xydata().tolist() == [[pytest.approx(75.0), pytest.approx(gap.loss)]]
    assert figure.axes[-1].containers[1].lines[0].get_xdata() == pytest.approx([50.0])


def measured_alternatives(folder, plain, pose, stderr):
    """A run's symmetrise.json, with `pose` the loss in the canonical pose."""
    folder.mkdir()
    cost = {"passes": 1, "jumps": 0.0, "milliseconds": 2.0}
    rows = [{**cost, "method": "plain", "loss": plain, "difference_stderr": 0.0}]
    rows.append({**cost, "method": "canonical pose", "loss": pose, "difference_stderr": stderr, "jumps": 0.5})
    rows.append({**cost, "method": "Haar average, 4", "passes": 4, "milliseconds": 6.0, "loss": 0.9 * plain})
    rows[-1] |= {"difference_stderr": stderr}
    (folder / "symmetrise.json").write_text(json.dumps({"rows": rows}))
    return folder


def test_a_plain_network_may_be_used_in_other_ways(tmp_path):
    """Ratios of two seeds, 0.8 and 1.2: their mean, and in its error the spread between them; 0.9 in both: none."""
    folders = [measured_alternatives(tmp_path / name, 2.0, pose, 0.02) for name, pose in (("a", 1.6), ("b", 2.4))]
    pose, haar = read_alternatives([*folders, tmp_path / "not measured"])
    assert (pose.name, pose.passes, pose.jumps, haar.passes) == ("canonical pose", 1, 0.5, 4)
    error = np.hypot(0.01, np.std([0.8, 1.2], ddof=1) / np.sqrt(2))
    assert pose.ratio == pytest.approx((1.0, 1 - 1.96 * error, 1 + 1.96 * error))
    assert haar.ratio == pytest.approx((0.9, 0.9 - 0.0196, 0.9 + 0.0196)) and haar.time == pytest.approx(3)
    equivariant = curve(4.0, flop=1.6e10, seconds=0.3)
    (_, body), _ = section(tmp_path, NAMES, PLAIN, equivariant, "A title", alternatives=(pose, haar))
    assert "Haar average, 4 0.90 (0.88 to 0.92) in 3 times the time" in body
    assert "1.39) in 1 times the time, jumping on 50 % of paths" in body
    with (tmp_path / "alternatives.csv").open() as file:
        assert [float(row["ratio"]) for row in csv.DictReader(file)] == pytest.approx([1.0, 0.9])
    gap = efficiency_gap(NAMES, PLAIN, equivariant, alternatives=(pose, haar))
    panel = gap_figure(gap, PLAIN, equivariant, "A title").axes[-1]
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names[:3] == ["if it were symmetric", "canonical pose (1 x)", "Haar average, 4 (4 x)"]
    assert panel.containers[2].lines[0].get_xdata() == pytest.approx([10.0])
    assert read_alternatives([tmp_path / "not measured"]) == ()
