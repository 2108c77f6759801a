"""The equivariance of untrained networks: exact kinds at rounding, sampled ones above it."""

import jax
import numpy as np
import pytest

from equiscale.studies import exactness
from tests.models.test_tensor_field import graph_of


@pytest.mark.slow  # its networks are tested in test_spherical_transformer
def test_exact_and_sampled_kinds_are_told_apart():
    species = np.array([[6, 1, 8, 1], [8, 1, 1, 0]])
    positions = np.random.default_rng(0).normal(size=(2, 4, 3))
    small = {"channels": 4, "hidden": 4, "degree": 1, "radial_width": 4, "n_rbf": 4, "cutoff": 4.0}
    graph = graph_of(positions, species, k=3)
    settings = {"n_inits": 2, "n_rotations": 2, **small}
    rows = list(exactness.measure(["tfn", "est_published"], [1], [12], [graph], **settings))
    exact, sampled = rows
    assert (exact["points"], sampled["points"], exact["layers"]) == (0, 12, 1)
    assert exact["relative"] < 1e-3 and exact["forces"] < 1e-3
    assert sampled["forces"] > 20 * exact["forces"] and sampled["relative"] > exact["relative"]
    assert len(exactness.figure(rows, "two molecules").axes) == 2
    assert all(np.isfinite(row["energy"]) for row in rows)
    apart = [jax.tree.map(lambda a, i=i: a[i : i + 1], graph) for i in range(2)]  # buckets change the rotations alone
    (again,) = exactness.measure(
        ["tfn", "est_published"], [1], [12], apart, **settings, skip=lambda row: row["network"] == "tfn"
    )
    assert again["network"] == "est_published" and 0.1 < again["forces"] / sampled["forces"] < 10
    with pytest.raises(ValueError, match="est is none of est_exact"):
        next(exactness.measure(["est"], [1], [12], [graph], **settings))
    with pytest.raises(ValueError, match="no design rule has 13 points"):
        next(exactness.measure(["tfn", "est_exact"], [1], [13], [graph], **settings))
