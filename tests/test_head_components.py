"""Closed-form components of a force head against sampled ones, and the range of their Hessians; in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale import curvature, force_algebra
from equiscale.components import PARTS, components
from equiscale.head_components import head_components
from equiscale.head_range import head_range
from equiscale.models.force_head import ForceHead
from equiscale.spectrum import Spectrum

H = 6
ONLY = ["force_head/weight", "force_head/network/*"]


class Head(nn.Module):
    """A force head on given features, as it stands in a model."""

    breaking: float = 1.0

    @nn.compact
    def __call__(self, x):
        head = ForceHead(hidden=H, output_multiplier=1, breaking=self.breaking, name="force_head")
        return head(x["atoms"], x["edges"], x["direction"], False)


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 6)
    shapes = {"atoms": (3, 5, H), "edges": (3, 5, 4, H), "direction": (3, 5, 4, 3)}
    x = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    params = Head().init(keys[3], x)["params"]
    y = jax.random.normal(keys[4], (3, 5, 3))
    mask = jnp.arange(5) < jnp.array([5, 3, 4])[:, None]
    return params, x, y, {"mask": mask, "weight": jnp.array([1, 2, 0.5])}


def closed(params, x, y, settings, breaking=1.0, only=ONLY):
    return head_components(
        lambda p, x: Head(breaking=breaking).apply({"params": p}, x), params, x, y, only=only, **settings
    )


def sampled(params, x, y, settings, measure, only=ONLY):
    def forces(p, x):
        return force_algebra.forces(*Head().apply({"params": p}, x))

    sym = es.Symmetry(measure, {"atoms": es.trivial, "edges": es.trivial, "direction": es.vectors}, es.vectors)
    return components(forces, params, sym, x, y, key=jax.random.key(5), only=only, **settings)


@pytest.mark.parametrize("only", ["*", ONLY, "force_head/magnitude/*"], ids=str)
def test_closed_components_are_those_over_rotations_that_average_degree_four_exactly(case, only):
    params, x, y, settings = case
    a = closed(params, x, y, settings, only=only)
    b = sampled(params, x, y, settings, es.so3.quadrature(4), only)
    assert a.names == b.names and a.measure == "SO(3) in closed form"
    directions = np.random.default_rng(0).normal(size=(2, a.n))
    for vector in (a.vector, a.vector + 0.3 * directions[0]):
        for wanted, got in (
            (b.losses(vector), a.losses(vector)),
            (b.gradients(vector), a.gradients(vector)),
            (b.products(vector, directions, PARTS), a.products(vector, directions, PARTS)),
        ):
            for part in PARTS:
                np.testing.assert_allclose(got[part], wanted[part], rtol=1e-10, atol=1e-12)
    with pytest.raises(NotImplementedError, match="no group elements"):
        a.jacobian_rows(a.vector, np.arange(2))


@pytest.mark.parametrize("kind", ["closed", "sampled", "twin", "all parameters"])
def test_in_their_range_hessians_have_all_their_eigenvalues(case, kind):
    """A theorem: the rest of the spectrum is zero."""
    params, x, y, settings = case
    if kind == "sampled":
        c = sampled(params, x, y, settings, es.so3.haar(3))
    else:
        c = closed(params, x, y, settings, 0.0 if kind == "twin" else 1.0, "*" if kind == "all parameters" else ONLY)
    within = head_range(c)
    whole, inside = curvature.hessians(c), curvature.hessians(c, within=within)
    assert len(inside["mean"]) == len(within.kept) < c.n
    for part in ("mean", "equiv"):
        wanted = Spectrum.of(whole[part])
        got = Spectrum.of(inside[part], n=c.n)
        np.testing.assert_allclose(got.eigenvalues, wanted.eigenvalues, atol=1e-12 * max(wanted.largest, 1))
        if part == "mean":  # Of equiv the range is larger than it has to be.
            assert wanted.rank <= len(within.kept)
        back = within.lift(inside[part], c.n)
        np.testing.assert_allclose(within.lift(back.T, c.n), whole[part], atol=1e-12 * max(wanted.largest, 1))


def test_how_many_eigenvalues_can_differ_from_zero(case):
    """h^2 + 10 h - 6 of 2 h^2 + 5 h, and of either loss the rank in the closed form."""
    c = closed(*case)
    assert c.n == 2 * H**2 + 5 * H
    assert len(head_range(c).kept) == H**2 + 10 * H - 6
    found = curvature.spectra(c)
    assert len(found["mean"].eigenvalues) == c.n
    assert found["mean"].rank <= H**2 + 4 * H and found["equiv"].rank <= H**2 + 7 * H - 2


def test_a_space_that_is_not_the_range_is_noticed(case):
    c = closed(*case)
    within = head_range(c)
    with pytest.raises(FloatingPointError, match="outside the given space"):
        curvature.hessians(c, within=within._replace(kept=within.kept[:-1]))


def test_without_the_last_layer_or_three_different_rows_there_is_no_such_range(case):
    params, x, y, settings = case
    assert head_range(closed(params, x, y, settings, only="force_head/weight")) is None
    c = closed(*case)
    rows = c.unravel(c.vector)
    equal = np.concatenate([np.ravel(rows[n] if n != "force_head/weight" else np.ones((3, H))) for n in c.names])
    assert head_range(c, equal) is None


def test_directions_are_lifted_to_what_is_restricted_to_them(case):
    c = closed(*case)
    within = head_range(c)
    coordinates = np.random.default_rng(1).normal(size=(3, len(within.kept)))
    lifted = within.lift(coordinates, c.n)
    np.testing.assert_allclose(within.restrict(lifted), coordinates, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(lifted, axis=1), np.linalg.norm(coordinates, axis=1))
