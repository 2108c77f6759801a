"""Neighbour tables are the k nearest of a brute-force search, and survive turning."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.data import neighbours
from equiscale.data.neighbours import Edges, build, nearest

NONE = {"cell": np.zeros((3, 3)), "periodic": np.zeros(3, bool)}


def brute_force(x, k, cutoff, cell, periodic):
    """Per atom the sorted (distance, index, shift) of its k nearest, and how many are within the cutoff."""
    reach = range(-3, 4)
    shifts = itertools.product(reach, repeat=3)
    shifts = [s for s in shifts if all(p or not n for p, n in zip(periodic, s, strict=True))]
    found, within = [], []
    for i in range(len(x)):
        rows = []
        for j in range(len(x)):
            for shift in shifts:
                if i != j or any(shift):
                    d = np.linalg.norm(x[j] + np.array(shift) @ cell - x[i])
                    if d <= cutoff:
                        rows.append((d, j, shift))
        found.append(sorted(rows)[:k])
        within.append(len(rows))
    return found, within


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 12), st.tuples(*[st.booleans()] * 3))
def test_the_nearest_are_those_of_a_brute_force_search(seed, n, k, periodic):
    rng = np.random.default_rng(seed)
    cell = 3 * np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3))
    x = rng.uniform(-3, 3, (n, 3))
    table = nearest(x, k, 3.5, cell=cell, periodic=np.array(periodic))
    found, within = brute_force(x, k, 3.5, cell, periodic)
    np.testing.assert_array_equal(table.within, within)
    for i, rows in enumerate(found):
        assert table.mask[i].sum() == len(rows) and table.mask[i, : len(rows)].all()
        got = [(j, tuple(s)) for j, s in zip(table.neighbours[i], table.shifts[i], strict=True)][: len(rows)]
        assert got == [(j, s) for _, j, s in rows]
        assert (table.neighbours[i, len(rows) :] == i).all() and not table.shifts[i, len(rows) :].any()


def test_equally_far_neighbours_come_by_index_and_image():
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.0]])
    table = nearest(square, 2, 1.2, **NONE)
    assert table.neighbours.tolist() == [[1, 2], [0, 3], [0, 3], [1, 2]]
    cubic = nearest(np.zeros((1, 3)), 6, 1.0, cell=np.eye(3), periodic=np.ones(3, bool))  # at the cutoff exactly
    assert cubic.within == [6] and (cubic.neighbours == 0).all()
    assert cubic.shifts[0].tolist() == sorted(cubic.shifts[0].tolist())


def test_the_published_structures_neighbours_are_those_of_ase():
    path = Path(__file__).parents[3] / "shared/data/oc20/oc20_traj_21.tar.xz"
    if not path.exists():
        pytest.skip("the OC20 relaxations are not next to this checkout")
    import io
    import tarfile

    from ase.io import read
    from ase.neighborlist import neighbor_list

    with tarfile.open(path) as archive:
        member = min((m for m in archive if m.name.endswith(".traj")), key=lambda m: m.size)
        atoms = read(io.BytesIO(archive.extractfile(member).read()), index=0, format="traj")
    assert atoms.pbc.any()
    i, d = neighbor_list("id", atoms, 5.0)
    table = nearest(atoms.positions, 12, 5.0, cell=atoms.cell.array, periodic=atoms.pbc)
    np.testing.assert_array_equal(table.within, np.bincount(i, minlength=len(atoms)))
    shift = table.shifts @ atoms.cell.array
    ours = np.linalg.norm(atoms.positions[table.neighbours] + shift - atoms.positions[:, None], axis=-1)
    for atom in range(len(atoms)):
        np.testing.assert_allclose(ours[atom, table.mask[atom]], np.sort(d[i == atom])[:12], rtol=1e-12)


def test_a_batch_keeps_padding_apart_and_says_what_was_cut():
    x = np.zeros((2, 4, 3), np.float32)
    x[0, :, 0] = [0, 1, 2, 3]
    x[1, 1:, 0] = [50, 0, 1]
    species = np.array([[6, 1, 1, 8], [0, 7, 1, 1]])  # padding can stand anywhere, here at the place of atom 2
    graph, edges = build(x, species, k=1, cutoff=1.5)
    assert edges == Edges(atoms=7, within=8, kept=6, crowded=2, isolated=1) and edges.cut == 2
    assert str(edges) == "kept 6 of 8 edges: 2 of 7 atoms have more neighbours than slots, 1 have none"
    assert graph.neighbours[..., 0].tolist() == [[1, 0, 1, 2], [0, 1, 3, 2]]
    assert graph.mask[..., 0].tolist() == [[True] * 4, [False, False, True, True]]
    assert graph.is_atom.tolist() == (species > 0).tolist()
    assert graph.positions.dtype == np.float32 and graph.species.dtype == graph.neighbours.dtype == np.int32
    assert not graph.cell.any() and not graph.shifts.any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"positions": np.zeros((1, 2, 3))}, "structure 0 .water.: atoms 0 and 1 are 0 angstrom apart"),
        ({"positions": np.array([[[0, 0, 0], [0, np.nan, 0.0]]])}, "structure 0 .water., atom 1: position .*nan"),
        ({"positions": np.zeros((2, 3))}, "disagree"),
        ({"cell": np.zeros((1, 3, 3))}, "span no volume"),
        ({"cell": np.full((1, 3, 3), np.inf)}, "cell .*inf.* is not finite"),
        ({"cell": np.eye(3)}, "need cell .1, 3, 3."),
        ({"cell": 0.005 * np.eye(3)[None], "cutoff": 0.02}, "on top of each other"),
        ({"k": 0}, "k=0 slots"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
    ],
)
def test_bad_structures_are_named(change, message):
    good = {"positions": np.array([[[0, 0, 0], [0, 0, 1.0]]]), "species": np.array([[8, 1]]), "k": 4, "cutoff": 3.0}
    with pytest.raises(ValueError, match=message):
        build(**{**good, "names": ["water"], **change})


def test_without_vesin_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vesin", None)
    with pytest.raises(ImportError, match=r"equiscale\[forces\]"):
        neighbours.nearest(np.zeros((1, 3)), 1, 1.0, **NONE)
