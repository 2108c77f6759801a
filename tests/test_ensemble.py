"""The loss left for infinitely many members is known in closed form where members are a map times a random number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import equiscale as es
from equiscale.ensemble import irreducible

SYMMETRY = es.Symmetry(es.octahedral.enumerate(), es.vectors, es.vectors)
NORM = es.Loss(lambda z, y: jnp.linalg.norm(z - y, axis=-1).mean(-1), "distance", "vectors")


def decomposed(f, x, y, **settings):
    return es.decompose(f, SYMMETRY, x, y, key=jax.random.key(0), **{"per_example": True} | settings)


def member(scale):
    """Equivariant but for the first component, which the twirl spreads over all three: (1 + scale) x in the mean."""
    return lambda x: (1 + scale) * x * jnp.array([1.5, 0.75, 0.75])


def test_it_is_the_square_of_the_mean_less_the_variance_over_the_number(x64):
    """Members (1 + e_s) x of targets x + n: |mean(e) x - n|^2 - var(e) |x|^2 / M, over the components.

    For e_s of mean 0 its mean over chance is |n|^2, the noise of the targets, whatever the number of members.
    """
    x = jax.random.normal(jax.random.key(1), (6, 4, 3))
    noise = jax.random.normal(jax.random.key(2), x.shape)
    scales = jnp.array([0.3, -0.2, 0.5, 0.1])
    members = [decomposed(member(e), x, x + noise) for e in scales]
    average = decomposed(lambda x: sum(member(e)(x) for e in scales) / 4, x, x + noise)
    found = irreducible(members, average)
    left = jnp.square(scales.mean() * x - noise) - scales.var(ddof=1) / 4 * jnp.square(x)
    np.testing.assert_allclose(found, left.mean((1, 2)), rtol=1e-5)
    d = decomposed(member(0.3), x, x + noise, irreducible=found, irreducible_from="ensemble of 4")
    assert float(d.percent_reducible) == pytest.approx(100 * float(d.equiv / (d.total - found.mean())), rel=1e-6)


def test_what_is_no_ensemble_is_refused():
    x = jax.random.normal(jax.random.key(1), (6, 4, 3))
    d = decomposed(member(0.1), x, x)
    with pytest.raises(ValueError, match="an ensemble of 1"):
        irreducible([d], d)
    with pytest.raises(ValueError, match="per_example=True"):
        irreducible([d, d], decomposed(member(0.1), x, x, per_example=False))
    other = decomposed(member(0.1), x, x, loss=NORM)
    with pytest.raises(ValueError, match="got distance"):
        irreducible([other, other], other)
