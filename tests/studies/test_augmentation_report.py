import json

import numpy as np
import pytest

from equiscale.lanczos import Density
from equiscale.studies import augmentation_report, curvature_study
from equiscale.studies.report import percent_text

FACTS = {"task": "made-up rows", "molecules": "none", "gradients": "no molecule", "curvature": "no parameter"}


def row(step, percent, floor=1e-9):
    return {
        "step": step, "total": 2.0, "total_stderr": 0.1, "mean": 2.0 - 0.02 * percent, "mean_stderr": 0.1,
        "equiv": 0.02 * percent, "equiv_stderr": 0.01, "percent": percent, "percent_stderr": 0.25, "floor": floor,
        "below_floor": percent <= floor, "measure": "octahedral.enumerate()",
        "gradients": {
            "loss_mean": 1.0, "loss_equiv": percent / 100, "gradient_mean": 2.0, "gradient_equiv": percent / 50,
            "gradient_cosine": 0.1,
        },
    }  # fmt: skip


def made_up_run(folder):
    (folder / "config.json").write_text('{"seed": 0}')
    np.savez(folder / "sample.npz", molecule="C", clean=np.ones((2, 4, 4, 4)), noisy=np.zeros((2, 4, 4, 4)))
    spectrum = Density(np.array([[1.0, 2.0]]), np.array([[0.9, 0.1]]), 50)
    curvature_study.save_densities(folder / "curvature.npz", {"mean": spectrum, "equiv": spectrum})
    for arm, percents in {"cube": (60.0, 20.0, 4.5), "none": (60.0, 40.0, 12.0)}.items():
        (folder / arm).mkdir()
        lines = [json.dumps(row(step, p)) for step, p in zip((0, 10, 100), percents, strict=True)]
        (folder / arm / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_the_report_says_in_numbers_what_the_rows_hold(tmp_path):
    path = augmentation_report.write(
        made_up_run(tmp_path), {"turned": "cube", "as they lie": "none"}, facts=FACTS, command="python -m x --seed=0"
    )
    page = path.read_text()
    assert "turned, it went from 60.0 ± 0.5 % untrained to 4.5 ± 0.5 % at step 100 (first under 10 % at step" in page
    assert "as they lie, it went from 60.0 ± 0.5 % untrained to 12.0 ± 0.5 % at step 100 (never under 10 %)" in page
    assert "from 2 to 1.91 turned" in page and "python -m x --seed=0" in page
    assert "no molecule" in page and "no parameter" in page
    assert page.count("<img") == 5 and {p.name for p in tmp_path.glob("*.png")} == {
        "percent.png", "components.png", "gradients.png", "curvature.png", "densities.png",
    }  # fmt: skip


def test_an_arm_without_numbers_is_named(tmp_path):
    made_up_run(tmp_path)
    (tmp_path / "none" / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"none holds no metrics"):
        augmentation_report.write(tmp_path, {"a": "cube", "b": "none"}, facts=FACTS, command="")


def test_a_percentage_below_its_floor_is_printed_as_such():
    assert percent_text(row(0, 1e-8, floor=2e-7)) == "< 2.0e-07 % (floor)"
    assert percent_text({**row(0, 0.01234), "percent_stderr": 0.0001}) == "0.0123 ± 0.0002 %"
