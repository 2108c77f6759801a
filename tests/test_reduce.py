import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from equiscale.reduce import Moments, by_cluster

OVER, UNDER = jnp.array([0.0, 1, -0.5]), jnp.array([1.0, 0, 0])
of = jax.jit(Moments.of)
add = jax.jit(lambda a, b: a + b)


def rows(seed, n=12, offset=0.0):
    return offset + jax.random.normal(jax.random.key(seed), (n, 3))


@given(seed=st.integers(0, 2**31), split=st.integers(0, 12), offset=st.floats(-1e3, 1e3))
def test_merging_any_split_gives_the_whole(seed, split, offset):
    """Chan's update, against NumPy in float64, also where the mean is large against the spread."""
    values = rows(seed, offset=offset)
    first = jnp.arange(12) < split
    merged = add(of(values, first), of(values, ~first))
    v = np.asarray(values, np.float64)
    np.testing.assert_allclose(merged.count, 12)
    np.testing.assert_allclose(merged.mean, v.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(merged.comoment, 12 * np.cov(v.T, bias=True), rtol=1e-3, atol=1e-2)


@given(seed=st.integers(0, 2**31))
def test_ratio_and_delta_method_match_the_textbook(seed):
    values = jnp.abs(rows(seed)) + 1
    m = of(values, jnp.ones(12, bool))
    v = np.asarray(values, np.float64)
    a, b = v[:, 1] - 0.5 * v[:, 2], v[:, 0]
    p = a.sum() / b.sum()
    np.testing.assert_allclose(m.ratio(OVER, UNDER), p, rtol=1e-4, atol=1e-6)
    expected = np.sqrt((a - p * b).var(ddof=1) / 12) / b.mean()
    np.testing.assert_allclose(m.ratio_stderr(OVER, UNDER), expected, rtol=1e-3)


def test_absent_rows_may_hold_anything_and_one_row_has_no_error_bar():
    values = rows(0).at[3:].set(jnp.nan)
    m = of(values, jnp.arange(12) < 3)
    np.testing.assert_allclose(m.mean, values[:3].mean(0), rtol=1e-5)
    assert jnp.isnan(of(values, jnp.arange(12) < 1).ratio_stderr(OVER, UNDER))


def test_clusters_are_summed_wherever_their_rows_are():
    values, ids = rows(1), jnp.array([0, 1, 2] * 4)
    present = jnp.arange(12) < 8
    summed, there = by_cluster(values, present, ids)
    assert there.tolist() == [True] * 3 + [False] * 9
    np.testing.assert_allclose(summed[2], values[jnp.array([2, 5])].sum(0), rtol=1e-6)
