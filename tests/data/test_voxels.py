import dataclasses
import itertools
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.data import voxels as V
from equiscale.data.molecules import Molecules, from_records, from_records_skipping

QM9_ARCHIVE = Path(__file__).parents[3] / "shared/data/qm9/qm9_xyz_labelled_7989.tar.xz"
SMALL = V.Grid(16, elements=("C", "H", "O"))
# The 24 rotations of the cube: signed permutation matrices of determinant 1.
CUBE = np.array(
    [
        turn
        for axes in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
        if np.linalg.det(turn := np.eye(3)[list(axes)] * np.array(signs)[:, None]) > 0
    ],
    np.float32,
)


def turn_grid(rotation, v):
    """v'[R p] = v[p] about the centre of the grid, for [..., x, y, z]."""
    axes = np.abs(rotation).argmax(axis=1)
    signs = rotation[np.arange(3), axes]
    batch = v.ndim - 3
    turned = np.transpose(v, (*range(batch), *(batch + axes)))
    return np.flip(turned, [batch + i for i in range(3) if signs[i] < 0])


def by_loops(positions, species, grid):
    """1 - prod (1 - exp(-d^2 / (0.93 R)^2)) by plain loops in float64, one voxel at a time."""
    v = np.zeros((len(grid.elements),) + (grid.length,) * 3)
    half = (grid.length - 1) / 2 if grid.origin == "symmetric" else grid.length / 2 - 1.125
    numbers = {"C": 6, "H": 1, "O": 8, "N": 7, "F": 9}
    for c, symbol in enumerate(grid.elements):
        for voxel in np.ndindex(*v.shape[1:]):
            x = (np.array(voxel) - half) * grid.resolution
            vacancy = 1.0
            for r, z in zip(positions, species, strict=True):
                if z == numbers[symbol]:
                    vacancy *= 1 - np.exp(-np.sum((x - r) ** 2) / (0.93 * grid.radius) ** 2)
            v[(c, *voxel)] = 1 - vacancy
    return v


def random_atoms(seed, n=10, spread=0.7):
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (n, 3)).astype(np.float32), rng.choice([6, 1, 8], n).astype(np.int32)


def carbon_at(x, y, z):
    return jnp.array([[x, y, z]], jnp.float32), jnp.array([6])


def qm9(n) -> Molecules:
    """The first n molecules of the archive, centred."""
    if not QM9_ARCHIVE.exists():
        pytest.skip(f"real geometries: {QM9_ARCHIVE} is not there")
    records = []
    with tarfile.open(QM9_ARCHIVE) as archive:
        for member in archive:
            if member.name.endswith(".xyz"):
                rows = [line.split() for line in archive.extractfile(member).read().decode().splitlines()[2:]]
                records.append((member.name, [row[0] for row in rows], [row[1:4] for row in rows]))
            if len(records) == n:
                break
    molecules, report = from_records_skipping(records, "QM9", max_atoms=29)
    assert report.kept == n, report
    centred = np.asarray(V.centre(molecules.positions, molecules.species))
    return dataclasses.replace(molecules, positions=centred)


def test_one_atom_has_the_published_sums():
    for grid in (V.GEOM_DRUGS, V.Grid(64, origin="voxmol")):
        v = np.asarray(V.voxelise(*carbon_at(0, 0, 0), grid), np.float64)
        assert v[1:].max() == 0
        assert v.sum() == pytest.approx(35.831, abs=1e-3)  # = (pi (0.93 R)^2)^(3/2) / resolution^3
        assert v.sum() == pytest.approx((np.pi * 0.465**2) ** 1.5 / 0.25**3, rel=1e-5)
        assert (v**2).sum() == pytest.approx(12.668, abs=1e-3)


def test_voxmol_origin_puts_the_peak_where_the_published_code_does():
    v = np.asarray(V.voxelise(*carbon_at(0, 0, 0), V.Grid(64, origin="voxmol")), np.float64)[0]
    assert np.unravel_index(v.argmax(), v.shape) == (31, 31, 31)
    assert v.max() == pytest.approx(0.98654, abs=1e-5)
    for axis in range(3):
        profile = v.sum(tuple({0, 1, 2} - {axis}))
        assert profile @ np.arange(64) / v.sum() == pytest.approx(30.875, abs=1e-3)


@pytest.mark.parametrize("origin", V.ORIGINS)
def test_agrees_with_plain_loops_in_float64(origin):
    grid = V.Grid(6, resolution=0.4, elements=("C", "H", "O"), radius=0.6, origin=origin)
    positions, species = random_atoms(0)
    expected = by_loops(positions.astype(np.float64), species, grid)
    np.testing.assert_allclose(V.voxelise(positions, species, grid), expected, atol=1e-6)


def test_two_atoms_of_a_channel_meet_in_a_soft_or_and_of_two_channels_not_at_all():
    positions = jnp.array([[0.2, 0.0, 0.1], [-0.3, 0.1, 0.0]])
    p, q = (np.asarray(V.voxelise(r[None], jnp.array([6]), SMALL))[0] for r in positions)
    together = np.asarray(V.voxelise(positions, jnp.array([6, 6]), SMALL))
    np.testing.assert_allclose(together[0], p + q - p * q, atol=1e-6)
    assert together.max() <= 1 and together[1:].max() == 0
    apart = np.asarray(V.voxelise(positions, jnp.array([6, 8]), SMALL))
    np.testing.assert_array_equal(apart, np.stack([p, np.zeros_like(p), q]))


def test_presets_have_the_published_shapes():
    assert V.QM9.shape == (5, 32, 32, 32) and V.QM9.edge == 8.0
    assert V.GEOM_DRUGS.shape == (8, 64, 64, 64) and V.GEOM_DRUGS.edge == 16.0
    assert V.GEOM_DRUGS.numbers == (6, 1, 8, 7, 9, 16, 17, 35)
    assert {V.QM9: 1}[V.Grid(32, elements=["C", "H", "O", "N", "F"])] == 1


def mismatches(grid):
    """Relative L2 distance of the turned grid from the turned molecule, for each cube rotation."""
    positions, species = random_atoms(1)
    v = np.asarray(V.voxelise(positions, species, grid))
    turned = jax.vmap(lambda r: V.voxelise(r, species, grid))(positions @ CUBE.transpose(0, 2, 1))
    pairs = zip(CUBE, np.asarray(turned), strict=True)
    return np.array([np.linalg.norm(turn_grid(r, v) - w) / np.linalg.norm(v) for r, w in pairs])


def test_turning_the_grid_is_turning_the_molecule():
    assert len(CUBE) == 24
    assert mismatches(SMALL).max() < 1e-6


def test_with_the_published_origin_it_is_not():
    off = mismatches(dataclasses.replace(SMALL, origin="voxmol"))
    identity = (CUBE == np.eye(3)).all(axis=(1, 2))
    # The two turns about the diagonal through the displaced origin (1, 1, 1) leave it where it is.
    diagonal = (CUBE >= 0).all(axis=(1, 2))
    assert off[diagonal].max() < 1e-6 and diagonal.sum() == 3 and diagonal[identity].all()
    assert off[~diagonal].min() > 0.5


def test_the_same_on_real_geometries():
    molecules = qm9(300)
    fits, report = V.check_fits(molecules, V.QM9)
    assert report.total == 300 and report.kept == fits.sum() > 100
    voxelise = jax.jit(jax.vmap(lambda r, z: V.voxelise(r, z, V.QM9)))
    turns = CUBE[np.arange(300) % 24]
    for rows in np.arange(300).reshape(-1, 50):
        positions, species = molecules.positions[rows], molecules.species[rows]
        v = np.asarray(voxelise(positions, species))
        w = np.asarray(voxelise(np.einsum("bij,baj->bai", turns[rows], positions), species))
        for rotation, one, other in zip(turns[rows], v, w, strict=True):
            np.testing.assert_allclose(turn_grid(rotation, one), other, atol=3e-6)
        # An atom well inside the grid has all of its density there, under its element.
        n_atoms = np.stack([(species == z).sum(axis=1) for z in V.QM9.numbers], axis=1)
        assert (v.sum(axis=(2, 3, 4)) <= 35.84 * n_atoms + 1e-3).all()
        assert (v.sum(axis=(1, 2, 3, 4)) > 30 * n_atoms.sum(axis=1))[fits[rows]].all()


@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(10)))
def test_the_order_of_atoms_does_not_matter(seed, order):
    positions, species = random_atoms(seed)
    permuted = V.voxelise(positions[list(order)], species[list(order)], SMALL)
    np.testing.assert_allclose(permuted, V.voxelise(positions, species, SMALL), atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), n_padding=st.sampled_from([1, 5, 9]))
def test_padding_contributes_nothing(seed, n_padding):
    positions, species = random_atoms(seed)
    species = np.r_[species, np.zeros(n_padding, np.int32)]
    here, there = (
        V.voxelise(np.r_[positions, np.full((n_padding, 3), x, np.float32)], species, SMALL) for x in (0, 0.3)
    )
    np.testing.assert_array_equal(here, there)  # to the bit
    # Another number of atoms compiles to another order of roundings.
    np.testing.assert_allclose(here, V.voxelise(positions, species[:10], SMALL), atol=2e-7)


def test_all_padding_is_empty_and_pulls_on_nothing():
    def mass(r):
        return V.voxelise(r, jnp.zeros(4, jnp.int32), SMALL).sum()

    value, gradient = jax.value_and_grad(mass)(jnp.ones((4, 3)))
    assert value == 0 and not gradient.any()


def test_gradient_agrees_with_float64_finite_differences():
    grid = V.Grid(5, resolution=0.4, elements=("C", "H", "O"))
    positions, species = random_atoms(2, n=9)
    weights = np.random.default_rng(3).normal(size=grid.shape)
    gradient = jax.grad(lambda r: jnp.vdot(V.voxelise(r, species, grid), weights))(positions)
    expected, step = np.zeros((9, 3)), 1e-5
    for index in np.ndindex(9, 3):
        shift = np.zeros((9, 3))
        shift[index] = step
        up, down = (np.vdot(by_loops(positions + s, species, grid), weights) for s in (shift, -shift))
        expected[index] = (up - down) / (2 * step)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_gradient_is_that_of_the_product_in_float64(x64):
    positions, species = random_atoms(4)
    positions = jnp.asarray(positions, jnp.float64)
    axis = jnp.asarray(SMALL.axis)
    mesh = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), -1)

    def plain(r):
        p = jnp.exp(-((mesh - r[:, None, None, None]) ** 2).sum(-1) / 0.465**2)
        return jnp.stack([1 - jnp.prod(1 - p[species == z], axis=0) for z in SMALL.numbers])

    voxelise, pulled = jax.vjp(lambda r: V.voxelise(r, species, SMALL), positions)
    expected, pulled_plain = jax.vjp(plain, positions)
    np.testing.assert_allclose(voxelise, expected, atol=1e-14)
    weights = jax.random.normal(jax.random.key(0), SMALL.shape, jnp.float64)
    np.testing.assert_allclose(pulled(weights)[0], pulled_plain(weights)[0], rtol=1e-10)


def test_forward_mode_is_the_same_density_and_the_same_derivative(x64):
    positions, species = random_atoms(5, n=11)
    positions = jnp.asarray(positions, jnp.float64)
    moved, weights = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(11, 3), SMALL.shape]))
    reverse, pulled = jax.vjp(lambda r: V.voxelise(r, species, SMALL), positions)
    forward, pushed = jax.jvp(lambda r: V.voxelise(r, species, SMALL, mode="forward"), (positions,), (moved,))
    np.testing.assert_allclose(forward, reverse, atol=1e-14)
    np.testing.assert_allclose(jnp.vdot(weights, pushed), jnp.vdot(pulled(weights)[0], moved), rtol=1e-10)
    on_voxel = jnp.full((2, 3), 0.125), jnp.array([6, 6])
    along = jax.jvp(lambda r: V.voxelise(r, on_voxel[1], SMALL, mode="forward"), on_voxel[:1], (jnp.ones((2, 3)),))
    assert jnp.isfinite(along[1]).all()


def test_an_atom_on_a_voxel_has_density_one_and_a_finite_gradient():
    on_voxel = carbon_at(0.125, 0.125, 0.125)
    v = V.voxelise(*on_voxel, SMALL)
    assert v[0, 8, 8, 8] == pytest.approx(1, abs=1e-5)
    jacobian = jax.jacrev(lambda r: V.voxelise(r, on_voxel[1], SMALL))(on_voxel[0])
    assert jnp.isfinite(jacobian).all()
    twice = jnp.repeat(on_voxel[0], 2, axis=0)
    assert jnp.isfinite(jax.grad(lambda r: (V.voxelise(r, jnp.array([6, 6]), SMALL) ** 2).sum())(twice)).all()
    assert jacobian[0, 8, 8, 8] == pytest.approx(0, abs=1e-6)
    # d v / d x at the next voxel: 2 * 0.25 / w * exp(-0.25^2 / w), w = (0.93 R)^2
    assert jacobian[0, 9, 8, 8, 0, 0] == pytest.approx(0.5 / 0.465**2 * np.exp(-((0.25 / 0.465) ** 2)), rel=1e-5)


@given(seed=st.integers(0, 2**32 - 1))
def test_centring_moves_the_centroid_of_real_atoms_to_the_origin_and_leaves_padding(seed):
    rng = np.random.default_rng(seed)
    positions = rng.normal(3, 2, (4, 6, 3)).astype(np.float32)
    species = np.array([[6] * 6, [6, 1, 1, 0, 0, 0], [8, 0, 0, 0, 0, 0], [0] * 6], np.int32)
    positions[species == 0] = 0
    centred = np.asarray(V.centre(positions, species))
    np.testing.assert_allclose(centred.sum(axis=1), 0, atol=1e-5)
    assert not centred[species == 0].any()
    distances = np.linalg.norm(positions[0, :, None] - positions[0], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(centred[0, :, None] - centred[0], axis=-1), distances, atol=1e-5)


def dumbbell(symbol, half_length, direction):
    ends = np.outer([1, -1], np.array(direction) / np.linalg.norm(direction)) * half_length
    return symbol, [symbol, symbol], ends + 5  # off-centre: the check centres


def test_what_does_not_fit_is_counted_by_reason():
    molecules = from_records(
        [
            dumbbell("C", 2.9, [1, 0, 0]),
            dumbbell("C", 3.1, [1, 0, 0]),  # beyond 4 - 1 angstrom
            dumbbell("C", 3.1, [1, 1, 0]),  # only when turned
            dumbbell("Si", 1.0, [1, 0, 0]),
        ],
        "here",
    )
    fits, report = V.check_fits(molecules, V.QM9)
    assert fits.tolist() == [True, False, False, False]
    reasons = "2 leaving the 8.0 angstrom grid, 1 holding an element outside C H O N F"
    assert str(report) == f"kept 1 of 4: {reasons}"
    assert V.check_fits(molecules, V.QM9, any_rotation=False)[0].tolist() == [True, False, True, False]
    assert V.check_fits(molecules, V.QM9, margin=0.5)[0].tolist() == [True, True, True, False]
    # The displaced origin leaves (32 / 2 - 1.125 + 0.5) * 0.25 = 3.84 angstrom on its near side, not 4.
    voxmol = V.Grid(32, origin="voxmol")
    assert V.check_fits(molecules, voxmol)[0].tolist() == [False] * 4
    assert V.check_fits(molecules, voxmol, margin=0.9)[0].tolist() == [True, False, False, False]


@given(seed=st.integers(0, 2**32 - 1))
def test_what_fits_under_any_rotation_fits_as_it_lies(seed):
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, 1.2, (20, 6, 3))
    molecules = from_records([("x", ["C"] * 6, one) for one in xyz], "here")
    any_way, as_it_lies = (V.check_fits(molecules, V.QM9, any_rotation=a)[0] for a in (True, False))
    assert (as_it_lies | ~any_way).all()


def test_wrong_settings_and_batches_are_refused():
    with pytest.raises(ValueError, match="unknown element 'Xx'"):
        V.Grid(8, elements=("C", "Xx"))
    with pytest.raises(ValueError, match="each element once"):
        V.Grid(8, elements=("C", "C"))
    with pytest.raises(ValueError, match="origin='middle': give one of"):
        V.Grid(8, origin="middle")
    for name in ("length", "resolution", "radius"):
        with pytest.raises(ValueError, match=f"{name}=0: give a positive"):
            dataclasses.replace(V.QM9, **{name: 0})
    with pytest.raises(ValueError, match=r"use jax.vmap over a batch"):
        V.voxelise(jnp.zeros((2, 4, 3)), jnp.zeros((2, 4), jnp.int32), SMALL)
    with pytest.raises(ValueError, match='mode=\'both\': give "reverse" or "forward"'):
        V.voxelise(jnp.zeros((4, 3)), jnp.zeros(4, jnp.int32), SMALL, mode="both")
