"""The force head's loss components in closed form against sampled ones, rotations and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale import force_algebra as algebra

H = 5


@pytest.fixture(scope="module")
def head():
    """Moments `[batch, atoms, 3, h]`, weights, targets and a mask with padding, in float64."""
    rng = np.random.default_rng(0)
    mask = np.arange(4) < np.array([4, 3, 2, 4, 1, 3])[:, None]
    return rng.normal(size=(6, 4, 3, H)), rng.normal(size=(3, H)), rng.normal(size=(6, 4, 3)), mask


def test_it_is_what_rotations_average_to(head, x64):
    """The degree-2 quadrature integrates a head's deviation squared exactly, so it agrees to rounding."""
    moments, weight, target, mask = map(jnp.asarray, head)
    sym = es.Symmetry(es.so3.quadrature(2), algebra.turn, es.vectors)
    counted = jnp.broadcast_to(mask[..., None], target.shape)
    sampled = es.decompose(
        lambda m: algebra.forces(m, weight), sym, moments, target, key=jax.random.key(0), mask=counted
    )
    exact = algebra.decompose(moments, weight, target, mask=mask)
    for part in ("total", "mean", "equiv", "percent"):
        np.testing.assert_allclose(getattr(exact, part), getattr(sampled, part), rtol=1e-10)
    halves = [algebra.decompose(moments[s], weight, target[s], mask=mask[s]) for s in (slice(0, 2), slice(2, 6))]
    np.testing.assert_allclose(sum(halves).percent, exact.percent, rtol=1e-12)


def test_the_twirl_has_the_mean_row(head, x64):
    moments, weight, *_ = map(jnp.asarray, head)
    sym = es.Symmetry(es.so3.quadrature(2), algebra.turn, es.vectors)
    twirled = es.twirl(lambda m: algebra.forces(m, weight), sym)(jax.random.key(0), moments)
    np.testing.assert_allclose(algebra.twirled_forces(moments, weight), twirled, atol=1e-12)


@pytest.fixture(scope="module")
def sums(head):
    moments, _, target, mask = head
    return algebra.HeadSums.in_float64(moments, target, mask.astype(float))


def test_losses_gradients_and_hessians_are_those_of_the_atoms(head, sums, x64):
    moments, weight, target, mask = map(jnp.asarray, head)

    def of_atoms(weight):
        mean, equiv = algebra.atom_losses(moments, weight.reshape(3, H), target)
        return {"mean": mean[mask].mean(), "equiv": equiv[mask].mean()}

    expected, found = of_atoms(weight.ravel()), algebra.losses(sums, weight)
    slopes = algebra.gradients(sums, weight)
    hessians = algebra.hessians(sums)
    for part in ("mean", "equiv"):
        np.testing.assert_allclose(found[part], expected[part], rtol=1e-10)
        by_atoms = lambda w, part=part: of_atoms(w)[part]  # noqa: E731
        np.testing.assert_allclose(slopes[part].ravel(), jax.grad(by_atoms)(weight.ravel()), atol=1e-10)
        np.testing.assert_allclose(hessians[part], jax.hessian(by_atoms)(weight.ravel()), atol=1e-10)


def test_both_hessians_have_the_same_nonzero_spectrum(sums):
    """So on the head alone both losses are equally conditioned; Q has h zeros and eig(G) / 9 twice."""
    spectra = {part: np.linalg.eigvalsh(matrix) for part, matrix in algebra.hessians(sums).items()}
    of_gram = 2 / 9 * np.linalg.eigvalsh(sums.mean_gram)
    np.testing.assert_allclose(spectra["mean"][2 * H :], of_gram, rtol=1e-8)
    np.testing.assert_allclose(spectra["equiv"][H:], np.repeat(of_gram, 2), rtol=1e-8)
    np.testing.assert_allclose(spectra["equiv"][:H], 0, atol=1e-12)


def test_theorem_4_and_its_quadratic_law(head, sums, x64):
    weight = head[1]
    found = algebra.bounds(sums, weight)
    assert found.hold and found.lowest < found.effective < found.highest
    s = np.array([0.0, 0.5, 1.0, 3.0])
    law = algebra.law(sums, weight, s)
    np.testing.assert_allclose(law.equiv, s**2 * law.equiv[2], rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(law.mean, law.mean[2], rtol=1e-8)
