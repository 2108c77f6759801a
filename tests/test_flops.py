"""Operations are counted as by hand, as XLA counts what has no loop, and of a loop as often as it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equiscale.flops import flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@given(*(st.integers(1, 7) for _ in range(4)))
def test_a_product_costs_two_for_each_pair(b, m, k, n):
    assert flops(lambda x, y: jnp.einsum("bmk,bkn->bmn", x, y), shape(b, m, k), shape(b, k, n)) == 2 * b * m * k * n


def test_padding_and_zeros_of_convolutions_cost_nothing():
    """A convolution by hand: each weight against each input that its window covers."""
    x, kernel = shape(2, 5, 5, 3), shape(3, 3, 3, 4)
    numbers = ("NHWC", "HWIO", "NHWC")
    one = 3 * 5 - 2  # pairs along an axis: of the outer two windows one place is padding
    same = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)  # noqa: E731
    assert flops(same, x, kernel) == 2 * 2 * 4 * 3 * one**2
    up = lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "VALID", dimension_numbers=numbers)  # noqa: E731
    assert flops(up, x, kernel) == 2 * 2 * 4 * 3 * (5 * 3) ** 2


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 3)])
def test_convolutions_and_their_gradients_cost_what_xla_says(stride, groups):
    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )
        return y.sum()

    args = shape(2, 6, 6, 6), shape(3, 3, 6 // groups, 6)
    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    assert flops(gradient, *args) == pytest.approx(jax.jit(gradient).lower(*args).cost_analysis()["flops"], rel=0.02)


def test_a_network_without_loops_costs_what_xla_says():
    def loss(weights, x):
        for w in weights:
            x = jax.nn.relu(x @ w) / 2
        return jnp.square(x).mean()

    args = [shape(16, 16)] * 3, shape(8, 16)
    gradient = jax.value_and_grad(loss)
    assert flops(gradient, *args) == pytest.approx(jax.jit(gradient).lower(*args).cost_analysis()["flops"], rel=0.03)


@given(st.integers(1, 9))
def test_a_loop_costs_its_passes(n):
    w, x = np.ones((5, 5), np.float32), np.ones((3, 5), np.float32)
    once = flops(lambda x: x @ w, x)
    body = lambda x, _: (x @ w, None)  # noqa: E731
    assert flops(lambda x: jax.lax.scan(body, x, length=n)[0], x) == n * once
    assert flops(lambda x: jax.lax.fori_loop(0, n, lambda _, x: x @ w, x), x) == n * once
    assert flops(lambda xs: jax.lax.map(lambda x: x @ w, xs), np.ones((n, 3, 5), np.float32)) == n * once
    assert flops(jax.jit(jax.checkpoint(lambda x: x @ w)), x) == once


def test_of_branches_the_dearest_and_of_unknown_loops_a_pass():
    w, x = np.ones((5, 5), np.float32), np.ones((3, 5), np.float32)
    once = flops(lambda x: x @ w, x)
    branched = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x, x)  # noqa: E731
    assert flops(branched, x) == 2 * once
    assert flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x), x) == once


def test_what_a_mesh_shares_is_counted_of_all_its_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    w, x = np.ones((5, 5), np.float32), np.ones((16, 5), np.float32)
    spread = jax.shard_map(lambda x: x @ w, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    assert flops(spread, x) == flops(lambda x: x @ w, x)


def test_numbers_that_are_moved_or_whole_cost_nothing():
    assert flops(lambda x: jnp.concatenate([x.T.reshape(-1), x[0]]), shape(3, 4)) == 0
    assert flops(lambda i: i * 2 + 1, jax.ShapeDtypeStruct((7,), jnp.int32)) == 0
    assert flops(lambda x: x.sum(), shape(3, 4)) == 12
    assert flops(lambda x: jnp.zeros((2, 4)).at[jnp.array([0, 0, 1])].add(x), shape(3, 4)) == 12
