"""What the statistics of latents say of encoders whose symmetry is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import equiscale as es
from equiscale import rotations
from equiscale.latents import (
    Cosines,
    LatentCosines,
    encode,
    fit_representation,
    homomorphism_defect,
    latent_cosines,
    probe,
    rotations_by_axis,
)
from equiscale.linear_fits import host_generator

KEY = jax.random.key(0)
CUBE = {f"g{i}": g for i, g in enumerate(rotations.cube())}


def convolution(symmetric, seed=0):
    """Grids [batch, 2, 4, 4, 4] to [batch, 4, 4, 4, 4]; with a kernel averaged over the cube it commutes with it."""
    kernel = jax.random.normal(jax.random.key(seed), (4, 2, 3, 3, 3))
    if symmetric:
        kernel = sum(es.grid(g, kernel) for g in rotations.cube()) / 24
    return lambda x: jax.nn.relu(jax.lax.conv(x, kernel, (1, 1, 1), "SAME"))


def grids(n=7, seed=1):
    return np.asarray(jax.random.normal(jax.random.key(seed), (n, 2, 4, 4, 4)))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_rotations_by_axis_are_named_and_exact():
    table = rotations_by_axis((0, 90, 30, 360))
    assert list(table)[:5] == ["x 0°", "x 90°", "x 30°", "x 360°", "y 0°"]
    np.testing.assert_array_equal(table["z 90°"], [[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(table["y 360°"], np.eye(3))
    np.testing.assert_allclose(np.linalg.matrix_power(table["x 30°"], 3), table["x 90°"], atol=1e-15)


# --- cosines ---------------------------------------------------------------------------------------------------


def test_an_equivariant_encoder_has_spatial_cosine_one_for_all_rotations_of_the_cube():
    c = latent_cosines(convolution(True), es.grid, grids(), CUBE, key=KEY, act_latent=es.grid, batch_size=3)
    assert c.test == "equivariance" and len(c.raw.same) == 24
    for cosines in (c.raw, c.centred):
        np.testing.assert_allclose(list(cosines.same.values()), 1, atol=1e-6)
        assert cosines.different.max() < 0.9
    record = c.record(KEY)
    assert record["raw"]["all"]["auc"] == 1 and record["raw"]["all"]["auc_stderr"] == 0
    broken = latent_cosines(convolution(False), es.grid, grids(), CUBE, key=KEY, act_latent=es.grid)
    assert broken.record(KEY)["raw"]["all"]["median"] < 0.9


def test_the_paper_s_formula_is_a_test_of_invariance():
    """Pooled latents of an equivariant encoder are invariant: cosine 1, whatever acts on the grid before."""
    c = latent_cosines(convolution(True), es.grid, grids(), CUBE, key=KEY, pool=True, batch_size=3)
    assert c.test == "invariance"
    np.testing.assert_allclose([*c.raw.same.values(), *c.centred.same.values()], 1, atol=1e-5)


def test_against_numpy_in_any_batches():
    phi, x, elements = convolution(False), grids(), rotations_by_axis((90,))
    c = latent_cosines(phi, es.grid, x, elements, key=KEY, act_latent=es.grid, batch_size=3)

    def flat(z):
        return np.asarray(z, float).reshape(len(x), -1)

    def cosine(a, b):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))

    turn = jax.vmap(es.grid, (None, 0))
    plain = flat(phi(x))
    of_turned = {name: flat(phi(turn(g, x))) for name, g in elements.items()}
    centre = np.mean([plain, *of_turned.values()], axis=(0, 1))
    for name, g in elements.items():
        turned = flat(turn(g, phi(x)))
        np.testing.assert_allclose(c.raw.same[name], cosine(turned, of_turned[name]), atol=1e-5)
        np.testing.assert_allclose(c.centred.same[name], cosine(turned - centre, of_turned[name] - centre), atol=1e-5)
    i, j = c.pairs.T
    np.testing.assert_allclose(c.raw.different, cosine(plain[i], plain[j]), atol=1e-5)
    np.testing.assert_allclose(c.centred.different, cosine(plain[i] - centre, plain[j] - centre), atol=1e-5)


def test_padding_is_ignored_and_conformers_are_no_different_molecules():
    x = np.concatenate([grids(6), np.full((2, 2, 4, 4, 4), np.nan, np.float32)])
    measure = functools.partial(latent_cosines, convolution(False), es.grid, key=KEY, elements=rotations_by_axis())
    molecules = np.array([7, 7, 7, 3, 3, 9, 9, 9])
    padded = measure(x, weight=np.array([1.0] * 6 + [0, 0]), molecules=molecules, n_pairs=200)
    alone = measure(x[:6], molecules=molecules[:6], n_pairs=200)
    np.testing.assert_allclose(padded.raw.same["x 90°"], alone.raw.same["x 90°"], rtol=1e-5)
    i, j = padded.pairs.T
    assert (padded.molecules[i] != padded.molecules[j]).all() and len(set(map(tuple, padded.pairs))) == 22
    assert padded.record(KEY)["n_molecules"] == 3


def test_latents_without_length_are_counted_and_left_out():
    x = np.array(grids(5))
    x[0] = 0
    c = latent_cosines(lambda x: x, es.grid, x, {"e": np.eye(3)}, key=KEY, act_latent=es.grid, n_pairs=20)
    with_zero = (c.pairs == 0).any(1).sum()
    assert c.n_undefined == 1 + with_zero and np.isnan(c.raw.same["e"][0]) and not np.isnan(c.centred.same["e"][0])
    assert c.record(KEY)["raw"]["e"]["median"] == pytest.approx(1)


@given(seed=st.integers(0, 2**31), ties=st.booleans())
@settings(max_examples=5)
def test_effect_size_is_the_probability_to_exceed(seed, ties):
    """AUC = P(same > different) + P(equal)/2 by counting, and its bootstrap spread for independent pairs."""
    r = rng(seed)
    digits = 0 if ties else 9
    same, different = r.normal(0.5, 1, 30).round(digits), r.normal(0, 1, 30).round(digits)
    cosines = Cosines({"g": same}, different)
    pairs = np.stack([np.arange(30), (np.arange(30) + 1) % 30], axis=1)
    row = LatentCosines("invariance", cosines, cosines, np.arange(30), pairs, 0).record(KEY)["raw"]["g"]
    above = same[:, None] - different
    assert row["auc"] == pytest.approx((above > 0).mean() + (above == 0).mean() / 2)
    assert 0.02 < row["auc_stderr"] < 0.15


@pytest.mark.parametrize(
    "change, words",
    [
        ({"elements": {}}, "no group elements"),
        ({"pool": True}, "not both"),
        ({"elements": rotations_by_axis((45,))}, "cube's rotations only"),
        ({"phi": lambda x: x.sum()}, r"\[batch, \.\.\.\]"),
        ({"phi": lambda x: jnp.log(-jnp.abs(x))}, "NaN or infinite, the first at index 0"),
        ({"phi": lambda x: x.mean((2, 3, 4)), "act_latent": es.trivial, "pool": True}, "last three axes"),
        ({"molecules": np.zeros(4)}, "at least two, got 1"),
        ({"act_latent": lambda g, z: z[:1]}, "changed latents"),
    ],
)
def test_what_cosines_refuse(change, words):
    settings = {"phi": lambda x: x, "elements": rotations_by_axis(), "act_latent": es.grid} | change
    phi, elements = settings.pop("phi"), settings.pop("elements")
    with pytest.raises(ValueError, match=words):
        latent_cosines(phi, es.grid, grids(4), elements, key=KEY, **settings)


def test_encoding_in_batches_is_encoding():
    np.testing.assert_allclose(encode(jnp.tanh, grids(7), batch_size=3), np.tanh(grids(7)), rtol=1e-6)


# --- representations -------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), conformers=st.booleans())
@settings(max_examples=5)
def test_a_linear_representation_is_recovered(seed, conformers):
    r = rng(seed)
    z, rho = r.normal(size=(120, 4, 3)) + 5, r.normal(size=(12, 12))
    target = (z.reshape(120, 12) @ rho.T + 1).reshape(z.shape)
    fit = fit_representation(z, target, key=KEY, molecules=np.arange(120) // 3 if conformers else None)
    assert fit.error < 1e-12 and fit.error_identity > 0.1
    np.testing.assert_allclose(fit(z), target.reshape(120, 12), atol=1e-6)
    np.testing.assert_allclose(fit.left @ fit.right, rho.T, atol=1e-6)
    assert (fit.n_train, fit.n_held_out) == ((32, 8) if conformers else (96, 24))


@pytest.mark.parametrize("n, p", [(200, 12), (40, 300)])
def test_noise_is_predicted_by_its_mean(n, p):
    """Error 1 and nothing below it: the penalty grows until the map is next to nothing. Identity: 1 + 1."""
    r = rng()
    fit = fit_representation(r.normal(size=(n, p)), r.normal(size=(n, p)), key=KEY)
    assert abs(fit.error - 1) < 0.02 and abs(fit.error_identity - 2) < 0.2 and fit.ridge > 0.1


def test_error_of_a_noisy_representation_is_the_noise():
    """Target = rho z + noise of a quarter of the variance; the standard error covers the sampling of molecules."""
    r = rng()
    z, noise = r.normal(size=(2, 2000, 6))
    q = np.linalg.qr(r.normal(size=(6, 6)))[0]
    fit = fit_representation(z, z @ q * 0.75**0.5 + noise / 2, key=KEY, held_out=0.5)
    assert abs(fit.error - 0.25) < 4 * fit.error_stderr < 0.05


def test_invariance_is_the_identity_map():
    z = rng().normal(size=(60, 5))
    fit = fit_representation(z, z + 3, key=KEY)
    assert fit.error_identity < 1e-25 and fit.error < 1e-20


def test_fewer_examples_than_features_fit_what_they_span():
    """Latents of rank 6 in 300 dimensions, from 40 examples; and against ridge regression by the normal equations."""
    r = rng()
    z = r.normal(size=(40, 6)) @ r.normal(size=(6, 300))
    assert fit_representation(z, z @ np.linalg.qr(r.normal(size=(300, 300)))[0], key=KEY).error < 1e-12
    z, y = r.normal(size=(2, 40, 60))
    fit = fit_representation(z, y, key=KEY, ridge=0.1)
    train = np.ones(40, bool)
    train[host_generator(KEY).permutation(40)[:8]] = False
    centred = z[train] - z[train].mean(0)
    penalty = 0.1 * np.linalg.norm(centred, 2) ** 2
    expected = np.linalg.solve(centred.T @ centred + penalty * np.eye(60), centred.T @ (y[train] - y[train].mean(0)))
    np.testing.assert_allclose(fit.left @ fit.right, expected, atol=1e-10)


def test_conformers_do_not_straddle_the_split():
    """Noise repeated in every conformer is learned by heart if a molecule straddles, and not if it does not."""
    r = rng()
    z, y = np.repeat(r.normal(size=(2, 40, 60)), 4, axis=1)
    assert fit_representation(z, y, key=KEY).error < 0.05
    assert fit_representation(z, y, key=KEY, molecules=np.repeat(np.arange(40), 4)).error > 0.9


def test_a_true_representation_multiplies():
    """phi equivariant: rho(g) rho(h) = rho(gh). A map that no group element gives does not."""
    x = rng().normal(size=(80, 4, 3))
    mix = rng(1).normal(size=(12, 12))

    def phi(x):
        return x.reshape(-1, 12) @ mix

    g, h = rotations.cube()[[5, 11]]
    fits = [fit_representation(phi(x), phi(x @ r.T), key=KEY) for r in (g, h, g @ h, h @ g)]
    fresh = phi(rng(2).normal(size=(10, 4, 3)))
    assert homomorphism_defect(fits[0], fits[1], fits[2], fresh) < 1e-6
    assert homomorphism_defect(fits[0], fits[1], fits[3], fresh) > 0.1, "g and h do not commute"
    with pytest.raises(ValueError, match="with 5 components"):
        homomorphism_defect(*fits[:3], np.ones((3, 5)))


@pytest.mark.parametrize(
    "source, target, settings, words",
    [
        ((9, 3), (9, 4), {}, "one shape"),
        ((4, 3), (4, 3), {}, "4 molecules, 2 of them held out"),
        ((9, 3), (9, 3), {"molecules": np.arange(9) // 3}, "3 molecules"),
        ((9, 3), (9, 3), {"molecules": np.arange(8)}, "9 latents but 8 molecules"),
        ((9, 3), (9, 3), {"ridge": 0.0}, "positive"),
    ],
)
def test_what_a_fit_refuses(source, target, settings, words):
    with pytest.raises(ValueError, match=words):
        fit_representation(rng().normal(size=source), rng().normal(size=target), key=KEY, **settings)


def test_a_fit_refuses_nan_and_constants():
    z = rng().normal(size=(9, 3))
    with pytest.raises(ValueError, match="constant"):
        fit_representation(np.full((9, 3), 0.1), z, key=KEY)
    z[4, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 9 rows of source are NaN or infinite, the first at index 4"):
        fit_representation(z, z, key=KEY)


# --- probes ----------------------------------------------------------------------------------------------------


def test_a_planted_target_is_found_and_labels_at_random_are_not():
    r = rng()
    z = r.normal(size=(150, 4, 5))
    planted = z.reshape(150, 20) @ r.normal(size=(20, 2)) * [1, 1000] + [0, 50]
    found = probe(z, planted, key=KEY)
    np.testing.assert_allclose(found.r2, 1, atol=1e-10)
    np.testing.assert_allclose(found(z), planted, rtol=1e-6, atol=1e-6)
    lost = probe(z, r.normal(size=150), key=KEY)
    assert np.isnan(lost.error_identity) and lost.r2.shape == (1,) and -0.3 < lost.r2[0] < 0.1


def test_a_probe_s_error_bar_covers_the_truth():
    """R^2 = 0.8 planted; over splits the deviation is of the size of its standard error."""
    r = rng()
    z = r.normal(size=(600, 3))
    y = z @ [1.0, 1, 0] * (0.8 / 2) ** 0.5 + 0.2**0.5 * r.normal(size=600)
    fits = [probe(z, y, key=jax.random.key(i), held_out=0.3) for i in range(8)]
    deviations = np.array([(fit.r2[0] - 0.8) / fit.r2_stderr[0] for fit in fits])
    assert np.sqrt(np.mean(deviations**2)) < 2 and 0.005 < fits[0].r2_stderr[0] < 0.05
    with pytest.raises(ValueError, match="target 1 is constant"):
        probe(z, np.stack([y, np.ones(600)], axis=1), key=KEY)
    with pytest.raises(ValueError, match="600 latents but 599 targets"):
        probe(z, y[1:], key=KEY)
