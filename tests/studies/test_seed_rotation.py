"""Assessments of turned seeds by arm: averages by hand, and what was not generated is said."""

import json

import numpy as np
import pytest

from equiscale.studies import seed_rotation
from equiscale.studies.averages import over_seeds


def share(value, error=0.01):
    return {"value": value, "standard_error": error, "low": None, "high": None}


def divergence(value, p_value, floor=0.02):
    return {"kl_ab": share(value) | {"floor": floor, "floor_high": 2 * floor, "p_value": p_value}}


def assessment(stability, turned, kl=(0.01, 0.3), p_values=(0.5, 0.01)):
    """Seeds turned by 90 and 180 degrees, whose stability is `turned`; one property, logp."""
    shares = ("validity", "molecule_stability", "atom_stability")
    rotations = {"none": {"n": 50, **{name: share(stability) for name in shares}}}
    for name, value, k, p in zip(("90°", "180°"), turned, kl, p_values, strict=True):
        rotations[name] = {"n": 50, "change": {s: share(value - stability, 0.03) for s in shares}}
        rotations[name]["properties"] = {"logp": divergence(k, p)}
    return {"quality": {"n": 150}, "consistency": {"unrotated": "none", "rotations": rotations}}


def test_runs_are_averaged_over_turns_and_seeds():
    found = seed_rotation.summarise([assessment(0.8, (0.6, 0.7)), assessment(0.6, (0.5, 0.5))])
    assert (found.n_runs, found.n_molecules) == (2, 100)
    assert found.unturned["validity"].value == pytest.approx(0.7)
    assert found.unturned["validity"].stderr == pytest.approx(np.sqrt(0.01**2 + 0.02 / 2))
    assert found.change["molecule_stability"].value == pytest.approx(-0.125)
    between = np.var([-0.15, -0.1], ddof=1) / 2
    assert found.change["molecule_stability"].stderr == pytest.approx(np.sqrt(0.03**2 + between))
    logp = found.divergence["logp"]
    assert logp.kl.value == pytest.approx(0.155) and (logp.beyond, logp.compared) == (2, 4)
    assert logp.floor == pytest.approx(0.02) and logp.floor_high == pytest.approx(0.04)


def test_what_could_not_be_told_is_left_out_or_said():
    nothing = assessment(0.0, (0.0, 0.0), kl=(None, None), p_values=(None, None))
    some = assessment(0.8, (0.6, 0.7), kl=(None, 0.3), p_values=(None, 0.01))
    both = seed_rotation.summarise([nothing, some]).divergence["logp"]
    assert both.kl.value == pytest.approx(0.3) and (both.beyond, both.compared) == (1, 1)
    alone = seed_rotation.summarise([nothing]).divergence["logp"]
    assert np.isnan(alone.kl.value) and alone.compared == 0
    with pytest.raises(ValueError, match="generate with --seeds_from and --rotations"):
        seed_rotation.summarise([{"quality": {}}])


def test_the_section_tells_every_arm(tmp_path):
    arms = {"large": [assessment(0.8, (0.6, 0.7))], "small": [assessment(0.0, (0.0, 0.0), (None,) * 2, (None,) * 2)]}
    folders = {}
    for arm, found in arms.items():
        folders[arm] = [tmp_path / arm]
        folders[arm][0].mkdir()
        (folders[arm][0] / "assessment.json").write_text(json.dumps(found[0]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "assessment.json").write_text(json.dumps({"quality": {"n": 0}}))
    folders["empty"] = [tmp_path / "empty"]
    ((_, body),) = seed_rotation.sections(tmp_path, folders, "assessment.json")
    assert "empty: 1 of 1 runs generated no molecule and are left out" in body
    ((_, nothing),) = seed_rotation.sections(tmp_path, {"empty": folders["empty"]}, "assessment.json")
    assert "generated no molecule" in nothing and "<img" not in nothing
    assert "80.0 ± 2.0 %, turned -15.0 ± 6.0 %" in body and "no valid molecule" in body
    assert "0.155 (chance 0.02), 1 of 2 beyond chance" in body
    assert (tmp_path / "seed_rotation.png").stat().st_size > 10_000


def test_an_average_over_no_values_is_none():
    assert all(np.isnan(over_seeds([np.nan], [0.1])))
    assert over_seeds([2.0, np.nan], [0.1, 0.1]) == pytest.approx((2.0, 0.1))
