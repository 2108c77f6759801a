import dataclasses
import functools
import itertools
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.data import nci
from equiscale.data import peaks as P
from equiscale.data.molecules import from_records
from equiscale.data.voxels import GEOM_DRUGS, Grid, centre, check_fits, voxelise
from tests.data.test_voxels import CUBE, turn_grid

DRUG3D_ARCHIVE = Path(__file__).parents[3] / "shared/data/drug3d/drug_conformers_4927.tar.xz"
SMALL = Grid(24, elements=("C", "H", "O"))
MAX_ATOMS = 12
NUMBERS = np.array(SMALL.numbers, np.int32)
find = functools.partial(P.find_atoms, grid=SMALL, max_atoms=MAX_ATOMS)


def density_of(positions, species, grid=SMALL):
    return voxelise(jnp.asarray(positions, jnp.float32), jnp.asarray(species, jnp.int32), grid)


def apart(seed, n, least=1.0, half=2.2):
    """n atoms of SMALL's elements at random, none nearer than `least` angstrom to another, padded to MAX_ATOMS."""
    rng = np.random.default_rng(seed)
    placed = np.zeros((0, 3))
    while len(placed) < n:
        new = rng.uniform(-half, half, 3)
        if not len(placed) or np.linalg.norm(placed - new, axis=1).min() > least:
            placed = np.vstack([placed, new])
    positions, species = np.zeros((MAX_ATOMS, 3), np.float32), np.zeros(MAX_ATOMS, np.int32)
    positions[:n], species[:n] = placed, rng.choice(NUMBERS, n)
    return positions, species


def assert_atoms(found, positions, species, within, row=0):
    """The row holds these atoms, each within so many angstrom, and padding after them."""
    xyz, z = np.asarray(found.positions[row]), np.asarray(found.species[row])
    positions, species = positions[species > 0], species[species > 0]
    n = len(species)
    assert sorted(z[z > 0]) == sorted(species) and z[:n].all()
    assert not xyz[n:].any() and not np.asarray(found.scores[row, n:]).any()
    if n:
        distances = np.linalg.norm(positions[:, None] - xyz[:n], axis=-1)
        nearest = np.where(species[:, None] == z[:n], distances, np.inf).argmin(axis=1)
        assert len(set(nearest)) == n
        assert distances[np.arange(n), nearest].max() < within


def assert_round_trip(molecules, grid, within, batch=4):
    """Voxels and back, in batches of one shape."""
    assert len(molecules) % batch == 0
    forward = jax.jit(jax.vmap(lambda r, z: voxelise(r, z, grid)))
    for rows in np.arange(len(molecules)).reshape(-1, batch):
        some = molecules.subset(rows)
        found = P.find_atoms(forward(some.positions, some.species), grid, max_atoms=some.species.shape[1])
        np.testing.assert_array_equal(found.n_peaks, some.n_atoms)
        assert not found.overflow.any() and not found.n_clashes.any() and found.last_step.max() <= P.TOLERANCE
        for row in range(batch):
            assert_atoms(found, some.positions[row], some.species[row], within, row)


def that_fit(records, n, width, source):
    """The first n that fit the published grid, centred, as they lie."""
    molecules = from_records(records, source, max_atoms=width)
    centred = np.asarray(centre(molecules.positions, molecules.species))
    molecules = dataclasses.replace(molecules, positions=centred)
    fits, report = check_fits(molecules, GEOM_DRUGS, any_rotation=False)
    assert report.kept >= n, report
    return molecules.subset(np.flatnonzero(fits)[:n])


def test_drug_like_conformers_come_back():
    if not DRUG3D_ARCHIVE.exists():
        pytest.skip(f"real geometries: {DRUG3D_ARCHIVE} is not there")
    records = []
    with tarfile.open(DRUG3D_ARCHIVE) as archive:
        members = [member for member in archive if member.name.endswith(".mol")]
        for member in members[:: len(members) // 16]:
            lines = archive.extractfile(member).read().decode().splitlines()
            n = int(lines[3][:3])
            rows = [line.split() for line in lines[4 : 4 + n]]
            records.append((member.name, [row[3] for row in rows], [row[:3] for row in rows]))
    assert_round_trip(that_fit(records, 8, 96, "drug3d"), GEOM_DRUGS, within=1e-3)


def test_embedded_compounds_come_back(tmp_path):
    pytest.importorskip("rdkit.Chem", reason="the compounds come with RDKit")
    molecules, _ = nci.load(GEOM_DRUGS.elements, limit=10, cache_dir=tmp_path, progress=False)
    records = [
        (name, z[z > 0], r[z > 0])
        for name, z, r in zip(molecules.names, molecules.species, molecules.positions, strict=True)
    ]
    assert_round_trip(that_fit(records, 8, 96, "NCI"), GEOM_DRUGS, within=1e-3)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, MAX_ATOMS))
def test_as_many_peaks_as_well_separated_atoms_and_each_in_its_place(seed, n):
    positions, species = apart(seed, n)
    found = find(density_of(positions, species)[None])
    assert found.n_peaks[0] == n and found.n_clashes[0] == 0 and not found.overflow[0]
    assert_atoms(found, positions, species, within=1e-4)
    assert (np.asarray(found.scores[0, :n]) > 0.8).all()


@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(3)))
def test_permuting_channels_permutes_elements(seed, order):
    positions, species = apart(seed, 9)
    channel_of = {z: c for c, z in enumerate(NUMBERS)} | {0: -1}
    v = density_of(positions, species)[jnp.array(order)]
    renamed = np.array([NUMBERS[order.index(channel_of[z])] if z else 0 for z in species])
    assert_atoms(find(v[None]), positions, renamed, within=1e-4)


def test_turning_the_grid_turns_the_atoms():
    positions, species = apart(0, 10)
    v = np.asarray(density_of(positions, species))
    found = find(np.stack([turn_grid(rotation, v) for rotation in CUBE]))
    for row, rotation in enumerate(CUBE):
        assert_atoms(found, positions @ rotation.T, species, 1e-4, row)


def test_an_empty_grid_has_no_atoms():
    found = find(np.zeros((3, *SMALL.shape), np.float32))
    for leaf in (found.positions, found.species, found.scores, found.n_peaks, found.n_clashes, found.last_step):
        assert not np.asarray(leaf).any()
    molecules, report = P.to_molecules(found)
    assert len(molecules) == 0 and str(report) == "kept 0 of 3: 3 without a peak"


@pytest.mark.parametrize("offset", [0.0, 0.125, 0.0625])
def test_atoms_between_and_on_voxels_are_found_once(offset):
    """At the origin of an even grid 8 voxels are equally near, and none is a strict maximum."""
    positions = np.array([[0, 0, 0], [1.0, 0.125, 0], [-1.5, 0.125, 0.125]], np.float32) + offset
    species = np.array([6, 6, 8], np.int32)
    found = find(density_of(positions, species)[None])
    assert found.n_peaks[0] == 3
    assert_atoms(found, positions, species, within=1e-4)


def test_peaks_are_the_strict_maxima_and_the_first_of_a_plateau():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(2, 6, 7, 8)).astype(np.float32)
    padded = np.pad(v, ((0, 0), (1, 1), (1, 1), (1, 1)), constant_values=-np.inf)
    strict = np.ones(v.shape, bool)
    for dx, dy, dz in itertools.product(range(3), repeat=3):
        if (dx, dy, dz) != (1, 1, 1):
            strict &= v > padded[:, dx : dx + 6, dy : dy + 7, dz : dz + 8]
    np.testing.assert_array_equal(P.is_peak(v), strict)
    flat = np.zeros((9, 9, 9), np.float32)
    for corner in ((1, 1, 1), (1, 5, 6), (6, 2, 2)):
        flat[tuple(slice(c, c + 2) for c in corner)] = 1
    peaks = np.asarray(P.is_peak(flat)) & (flat > 0)
    assert np.argwhere(peaks).tolist() == [[1, 1, 1], [1, 5, 6], [6, 2, 2]]


def test_the_published_origin_and_another_resolution_and_atoms_at_the_faces():
    for grid in (dataclasses.replace(SMALL, origin="voxmol"), Grid(13, 0.4, SMALL.elements, radius=0.6)):
        low, high = grid.axis[0] + 0.1, grid.axis[-1] - 0.1
        positions = np.array([[low, 0.1, 0.3], [1.2, high, low], [0.3, -1.1, high], [0.05, 0.1, 0.2]], np.float32)
        species = np.array([6, 6, 1, 8], np.int32)
        found = P.find_atoms(density_of(positions, species, grid)[None], grid, max_atoms=6)
        assert_atoms(found, positions, species, within=1e-4)


def test_of_two_elements_in_one_place_the_stronger_stays():
    def pair(distance, carbon, oxygen):
        ends = np.array([[-distance / 2, 0.03, 0.02], [distance / 2, 0.01, 0.06]], np.float32)
        return ends, density_of(ends, [6, 8]) * jnp.array([carbon, 0, oxygen])[:, None, None, None]

    ends, v = pair(0.5, 0.9, 0.6)
    _, w = pair(0.5, 0.6, 0.9)
    for end, density, species in ((ends[0], v, 6), (ends[1], w, 8)):
        found = find(density[None])
        assert found.species[0, :2].tolist() == [species, 0] and found.n_peaks[0] == 2 and found.n_clashes[0] == 1
        np.testing.assert_allclose(found.positions[0, 0], end, atol=0.01)
    assert np.count_nonzero(find(v[None], min_distance=0.0).species) == 2
    ends, v = pair(0.96, 0.9, 0.6)  # as O-H: no clash
    assert_atoms(find(v[None]), ends, np.array([6, 8]), within=0.01)


def test_a_chain_of_clashes_keeps_both_ends():
    """The middle one goes for the sake of the strongest, and so is no reason for the last to go."""
    chain = np.array([[-0.6, 0, 0.1], [0, 0.05, 0.1], [0.6, 0, 0.1]], np.float32)
    v = density_of(chain, [6, 1, 8]) * jnp.array([1, 0.8, 0.6])[:, None, None, None]
    found = find(v[None])
    assert found.species[0, :3].tolist() == [6, 8, 0] and found.n_clashes[0] == 1


def test_more_peaks_than_places_are_reported():
    positions, species = apart(3, 10)
    heights = np.linspace(1, 0.5, 10)
    v = sum(h * density_of(r[None], z[None]) for h, r, z in zip(heights, positions, species, strict=False))
    found = P.find_atoms(jnp.stack([v, 0 * v]), SMALL, max_atoms=4)
    assert found.n_peaks.tolist() == [10, 0] and found.overflow.tolist() == [True, False]
    scores = np.asarray(find(v[None]).scores[0])
    np.testing.assert_array_equal(found.scores[0], np.sort(scores)[::-1][:4])  # the strongest
    _, report = P.to_molecules(found)
    assert dict(report.reasons) == {"with more than 4 peaks": 1, "without a peak": 1}


@pytest.mark.parametrize("change", ["white noise", "half the height", "more than 2", "broader"])
def test_the_fit_of_an_inexact_density_is_the_least_error_of_the_whole_grid(change):
    """Not only of the windows that atoms are fitted in: a minimiser over the whole grid finds nothing better."""
    positions, species = apart(5, 10, least=1.1)
    v = density_of(positions, species)
    noise = jax.random.normal(jax.random.key(0), v.shape)
    noisy = {"white noise": v + 0.04 * noise, "half the height": v / 2, "more than 2": 2.2 * v, "broader": v**0.7}
    target = noisy[change]

    def error(r):
        return jnp.sum((voxelise(r, found.species[0], SMALL) - target) ** 2)

    guess, found = find(target[None], steps=0), find(target[None])
    assert_atoms(found, positions, species, within=0.05)
    minimiser = optax.lbfgs()

    def step(carry, _):
        r, state = carry
        value, gradient = optax.value_and_grad_from_state(error)(r, state=state)
        updates, state = minimiser.update(gradient, state, r, value=value, grad=gradient, value_fn=error)
        return (r + updates, state), None

    start = found.positions[0]
    (best, _), _ = jax.lax.scan(step, (start, minimiser.init(start)), length=20)
    assert error(best) > 0.9995 * error(start) and error(start) <= error(guess.positions[0])


def test_a_value_that_is_not_finite_is_named_or_flagged():
    positions, species = apart(1, 5)
    v = np.stack([density_of(positions, species)] * 3)
    v[1, 0, 3, 4, 5] = np.nan
    v[2, 2, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"molecules \[1, 2\] hold NaN or infinite values: leave"):
        find(v)
    found = jax.jit(find)(v)
    assert found.finite.tolist() == [True, False, False] and not found.species[1:].any()
    assert_atoms(found, positions, species, within=1e-4)
    molecules, report = P.to_molecules(found, ["a", "b", "c"], "here")
    assert molecules.names == ("a",) and molecules.source == "here" and molecules.n_atoms.tolist() == [5]
    assert str(report) == "kept 1 of 3: 2 with a density that is not finite"


def test_a_batch_is_its_molecules_one_by_one():
    batch = [apart(seed, n) for seed, n in ((0, 3), (1, 12), (2, 7))]
    v = jnp.stack([density_of(*one) for one in batch])
    together = find(v)
    for row, (positions, species) in enumerate(batch):
        alone = find(v[row : row + 1])
        np.testing.assert_array_equal(together.species[row], alone.species[0])
        np.testing.assert_allclose(together.positions[row], alone.positions[0], atol=1e-5)
        assert_atoms(together, positions, species, 1e-4, row)
    molecules, report = P.to_molecules(together)
    assert molecules.names == ("0", "1", "2") and molecules.n_atoms.tolist() == [3, 12, 7] and report.kept == 3


def test_half_precision_is_fitted_in_single():
    positions, species = apart(2, 8)
    found = find(density_of(positions, species)[None].astype(jnp.bfloat16))
    assert found.positions.dtype == jnp.float32
    assert_atoms(found, positions, species, within=0.01)


def test_double_precision(x64):
    positions, species = apart(2, 8)
    found = find(density_of(positions, species)[None].astype(jnp.float64))
    assert found.positions.dtype == jnp.float64
    assert_atoms(found, positions, species, within=1e-5)


def test_wrong_settings_are_refused():
    v = np.zeros((1, *SMALL.shape), np.float32)
    with pytest.raises(ValueError, match=r"densities \(3, 24, 24, 24\): give \[n, "):
        find(v[0])
    with pytest.raises(ValueError, match="max_atoms=0: give 1 to"):
        P.find_atoms(v, SMALL, max_atoms=0)
    with pytest.raises(ValueError, match="threshold=0: give a positive number"):
        find(v, threshold=0)
    for name in ("min_distance", "steps"):
        with pytest.raises(ValueError, match=f"{name}=-1: give a positive number or 0"):
            find(v, **{name: -1})
    with pytest.raises(ValueError, match="2 names for 1 molecules"):
        P.to_molecules(find(v), ["a", "b"])
