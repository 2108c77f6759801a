import json
import math

import jax
import numpy as np
import pytest

from equiscale.data.molecules import Skipped, join
from equiscale.studies import generation as G
from equiscale.studies import generation_metrics as metrics
from equiscale.studies.molecule_statistics import PROPERTIES, of_perceived, statistics
from tests.studies.generated import garbage, hand, nothing

KEY = jax.random.key(123)  # of a stream that no test draws its data from


def numbers_of(record):
    """All numbers of a record, however deep."""
    for value in record.values() if isinstance(record, dict) else record:
        if isinstance(value, dict):
            yield from numbers_of(value)
        elif not isinstance(value, str):
            yield value


def test_measure_reports_every_metric_as_plain_numbers(molecules, real):
    record = G.measure(join([molecules, garbage()]), real, key=KEY)
    assert {*metrics.SHARES, *metrics.DISTANCES, "uniqueness", "novelty"} <= set(record)
    assert record["n"] == 36 and record["n_reference"] == 24 and record["n_valid"] >= 24
    assert 24 / 36 <= record["validity"]["value"] < 0.8
    json.dumps(record)
    for name in (*metrics.SHARES, *metrics.DISTANCES, "uniqueness", "novelty"):
        of = record[name]
        assert of["standard_error"] >= 0 and of["low"] <= of["high"], name
    for name in metrics.SHARES:
        assert record[name]["low"] < record[name]["value"] < record[name]["high"]
    for name in metrics.DISTANCES:
        assert 0 <= record[name]["floor"] <= record[name]["floor_high"]
    again = G.measure(statistics(join([molecules, garbage()])), molecules, key=KEY)
    assert again == record


def test_measure_of_the_reference_itself_reads_its_floor_or_less(real):
    record = G.measure(real, real, key=KEY)
    for name in metrics.DISTANCES:
        assert record[name]["value"] == pytest.approx(0, abs=1e-12) and record[name]["floor"] > 0
    assert record["novelty"]["value"] == 0 and record["uniqueness"]["value"] == 0.5
    assert G.measure(real, real, key=KEY, known=["OCC"])["novelty"]["value"] == pytest.approx(11 / 12)
    assert G.measure(hand(("CC(N)C=O",)), key=KEY, known=["C[C@H](N)C=O", "no SMILES"])["novelty"]["value"] == 0
    assert "novelty" not in G.measure(real, key=KEY) and "atom_tv" not in G.measure(real, key=KEY)
    for name in metrics.SHARES:  # all of 24 are valid, which says no more than 86 %
        assert record[name]["value"] == record[name]["high"] == 1 and 0.85 < record[name]["low"] < 0.88


def test_errors_of_shares_are_binomial():
    rng = np.random.default_rng(0)
    smiles = tuple(f"C{i}" if there else None for i, there in enumerate(rng.random(400) < 0.8))
    record = G.measure(hand(smiles), key=KEY)["validity"]
    p = record["value"]
    assert record["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=0.2)
    # In 40 groups of ten alike, the error is that of 40.
    grouped = hand(tuple(np.repeat(np.array(smiles[:40], object), 10)))
    record = G.measure(grouped, key=KEY, groups=np.repeat(np.arange(40), 10).tolist())["validity"]
    p = record["value"]
    assert record["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 40), rel=0.2)
    assert record["high"] - record["low"] > 0.2
    with pytest.raises(ValueError, match="3 groups for 400 molecules"):
        G.measure(grouped, key=KEY, groups=[1, 2, 3])


def test_the_error_of_uniqueness_is_that_of_new_draws():
    """Jackknife against the spread over fresh sets; a bootstrap would be far below, at another value."""
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(60):
        smiles = tuple(str(i) for i in (rng.pareto(0.8, 300) * 20).astype(int))
        of = G.measure(hand(smiles), key=KEY)["uniqueness"]
        values.append(of["value"])
        errors.append(of["standard_error"])
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)
    # By hand: 4 of 5 are valid and 3 distinct; singletons 2 of the 4, so leaving out gives 2/3, 2/3, 1 and 1.
    five = hand(("C", "C", "N", "O", None))
    of = G.measure(five, key=KEY, known=["O"])
    assert of["uniqueness"]["value"] == 0.75
    assert of["uniqueness"]["standard_error"] == pytest.approx(math.sqrt(3 * np.var([2 / 3, 2 / 3, 1, 1])))
    assert of["novelty"]["value"] == pytest.approx(2 / 3)
    assert of["novelty"]["standard_error"] == pytest.approx(math.sqrt(3 * np.var([2 / 3, 2 / 3, 1 / 2, 1])))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_sets_of_nothing_give_counts_and_nan(n, real):
    record = G.measure(nothing(n), real, key=KEY)
    assert record["n"] == n and record["n_valid"] == record["n_distinct"] == 0
    assert sum(record["not_perceived"].values()) == n
    if n:
        assert record["validity"]["value"] == record["connected"]["value"] == 0
    else:
        assert math.isnan(record["validity"]["value"])
    for name in (*metrics.DISTANCES, "atom_stability", "uniqueness", "novelty"):
        assert math.isnan(record[name]["value"]), name
    record = G.measure(real, nothing(n), key=KEY)
    assert record["validity"]["value"] == 1 and record["novelty"]["value"] == 1
    assert all(math.isnan(record[name]["value"]) for name in metrics.DISTANCES)
    record = G.consistency({"0°": nothing(n), "90°": real}, key=KEY)["rotations"]["90°"]
    assert record["validity"]["value"] == 1 and math.isnan(record["properties"]["logp"]["ks"]["value"])


def test_molecules_that_were_not_perceived_count_as_bad(molecules):
    lost = of_perceived(molecules, [None] * len(molecules), Skipped(0, {"lost": len(molecules)}))
    record = G.measure(lost, lost, key=KEY)
    assert record["not_perceived"] == {"lost": 24} and record["atom_tv"]["value"] == 0
    assert record["validity"]["value"] == record["atom_stability"]["value"] == record["connected"]["value"] == 0
    assert math.isnan(record["bond_length_w1"]["value"]) and math.isnan(record["bond_tv"]["value"])


def test_one_molecule_is_a_set(real, molecules):
    record = G.measure(molecules.subset([0]), molecules.subset([1]), key=KEY)
    assert record["validity"]["value"] == 1 and record["bond_length_w1"]["value"] > 0


def test_consistency_compares_each_rotation_with_the_unrotated(molecules, real):
    sets = {"0°": real, "0° again": molecules.subset(np.arange(24)[::-1]), "90°": garbage()}
    record = G.consistency(sets, key=KEY)
    json.dumps(record)
    assert record["unrotated"] == "0°" and list(record["rotations"]) == list(sets)
    same, turned = record["rotations"]["0° again"], record["rotations"]["90°"]
    assert "properties" not in record["rotations"]["0°"] and "change" not in record["rotations"]["0°"]
    for name in ("validity", "molecule_stability", "atom_stability"):
        assert same["change"][name]["value"] == 0
        assert turned["change"][name]["high"] < 0
        assert turned["change"][name]["value"] == pytest.approx(turned[name]["value"] - 1)
    assert all(same["properties"][name]["kl_ab"]["value"] == 0 for name in PROPERTIES)
    assert turned["properties"]["logp"]["n_a"] == turned["n_valid"] and same["n"] == 24
    with pytest.raises(ValueError, match="unrotated='none' is none of"):
        G.consistency(sets, key=KEY, unrotated="none")


def test_consistency_of_paired_seeds_cancels_what_seeds_share():
    """A seed that fails in every orientation changes nothing: known as one seed, the change has no error."""
    rng = np.random.default_rng(0)
    smiles = tuple("C" if there else None for there in rng.random(100) < 0.6)
    sets, seeds = {"0°": hand(smiles), "90°": hand(smiles)}, {"0°": range(100), "90°": range(100)}
    free = G.consistency(sets, key=KEY)["rotations"]["90°"]["change"]["validity"]
    paired = G.consistency(sets, key=KEY, groups=seeds)["rotations"]["90°"]["change"]["validity"]
    assert free["standard_error"] == pytest.approx(math.sqrt(2 * 0.24 / 100), rel=0.25)
    assert paired["standard_error"] == 0 and paired["value"] == free["value"] == 0


def numbers_are_plain(record) -> bool:
    return all(type(number) in (int, float) for number in numbers_of(record))


def test_records_hold_python_numbers(real):
    assert numbers_are_plain(G.measure(real, real, key=KEY))
    assert numbers_are_plain(G.consistency({"0°": real, "90°": real}, key=KEY)["rotations"])
