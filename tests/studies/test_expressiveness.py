"""The n-fold test: its stars, what theory forces, and that broken symmetry shows in its control's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.studies import expressiveness, sphere_rules
from equiscale.studies.expressiveness_figures import n_fold_figure


def test_stars_are_what_they_are_after_a_turn_by_their_symmetry():
    graph = expressiveness.stars(jnp.array(3), jnp.array(2 * np.pi / 3), 5)
    real = graph.species[0] > 0
    assert real.sum() == 4 and graph.mask[0, 0].sum() == 3 and (graph.mask[:, 1:].sum(2) == real[1:]).all()
    first, second = (p[real] for p in graph.positions)
    apart = np.linalg.norm(first[:, None] - second, axis=-1)
    assert np.allclose(apart.min(0), 0, atol=1e-6) and not np.allclose(first, second, atol=0.1)


@pytest.mark.parametrize("kind", ["tfn", pytest.param("est_published_ga", marks=pytest.mark.slow)])  # half a minute
def test_below_n_degrees_only_broken_symmetry_tells_stars_apart(kind):
    networks = {kind: lambda degree: expressiveness.make(kind, degree, 12 * (kind != "tfn"), 4)}
    rows = list(expressiveness.n_fold_table(networks, [1], [3], n_seeds=2, epochs=1))
    if kind == "tfn":
        for row in rows:
            assert not row["possible"] and row["difference"] < 1e-9
            assert row["best"] == row["final"] == row["control"] == 0.5
        assert len(n_fold_figure(rows).axes) == 1
    else:
        assert all(row["difference"] > 1e-3 for row in rows)


@pytest.mark.slow  # compiles for half a minute
def test_a_star_and_a_seed_at_a_time_come_to_the_same(monkeypatch):
    def found():
        expressiveness.n_fold.clear_cache()
        networks = {"tfn": lambda degree: expressiveness.make("tfn", degree, 0, 2)}
        (row,) = expressiveness.n_fold_table(networks, [2], [2], n_seeds=2, epochs=2)
        return row

    together = found()
    monkeypatch.setattr(expressiveness, "FEW", 1)
    apart = found()
    assert together["difference"] > 0.1 and together.keys() == apart.keys()
    numbers = {name: value for name, value in together.items() if isinstance(value, float)}
    assert {name: apart[name] for name in numbers} == pytest.approx(numbers, rel=1e-10)


def test_points_that_a_rule_lacks_are_refused_before_any_training():
    networks = {
        kind: lambda degree, kind=kind: expressiveness.make(kind, degree, 13, 4) for kind in ("tfn", "est_exact")
    }
    with pytest.raises(ValueError, match="no design rule has 13 points; the nearest sizes are 12 and"):
        next(expressiveness.n_fold_table(networks, [1], [3], n_seeds=2))


@pytest.mark.slow  # rules are tested in tests/sphere
def test_rules_are_compared_at_sizes_that_they_have(monkeypatch):
    chosen = ("spherical design", "Fibonacci with poles (released)", "e3nn grid, unweighted softmax")
    monkeypatch.setattr(sphere_rules, "CHOICES", {name: sphere_rules.CHOICES[name] for name in chosen})
    rows = sphere_rules.measure([1], [20], [1.0, 2.0], channels=2, n=2, rotations=2)
    assert {row["points"] for row in rows} == {12, 20, 10} and len(rows) == 5 + 5 + 4
    by = {(row["rule"], row["operation"], row["sharpness"]): row["error"] for row in rows}
    assert by[chosen[0], sphere_rules.SILU, 1.0] < by[chosen[1], sphere_rules.SILU, 1.0] / 2
    found = sphere_rules.smallest(rows, sphere_rules.SILU, within=1.0)
    assert found == {(1, chosen[0]): 12, (1, chosen[1]): 20}
    assert len(sphere_rules.figure(rows).axes) == 6
    assert jax.numpy.isfinite(jnp.array(list(by.values()))).all()
