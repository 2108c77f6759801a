"""Reordering is a gather whose transpose is the inverse gather, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equiscale.reorder import reorder

PERMUTATIONS = jnp.stack([jax.random.permutation(jax.random.key(i), 5) for i in range(3)])
INVERSES = jnp.argsort(PERMUTATIONS, -1)
X = jax.random.normal(jax.random.key(9), (3, 2, 5))


def looped(x):
    return jnp.stack([x[i][:, PERMUTATIONS[i]] for i in range(3)])


@pytest.mark.parametrize("jit", [False, True])
def test_vmapped_over_both_or_either(jit):
    wrap = jax.jit if jit else lambda f: f
    np.testing.assert_array_equal(wrap(jax.vmap(reorder))(X, PERMUTATIONS, INVERSES), looped(X))
    one = wrap(jax.vmap(lambda x: reorder(x, PERMUTATIONS[0], INVERSES[0])))(X)
    np.testing.assert_array_equal(one, X[:, :, PERMUTATIONS[0]])
    each = wrap(jax.vmap(lambda p, q: reorder(X[0], p, q)))(PERMUTATIONS, INVERSES)
    np.testing.assert_array_equal(each, jnp.stack([X[0][:, p] for p in PERMUTATIONS]))
    nested = wrap(jax.vmap(lambda x: jax.vmap(reorder)(x, PERMUTATIONS, INVERSES), in_axes=1, out_axes=2))
    np.testing.assert_array_equal(nested(X), jnp.moveaxis(looped(X), 1, 2))


def test_derivatives_are_those_of_indexing():
    def value(f, x):
        return jnp.sum(jnp.sin(f(x)) * jnp.arange(5))

    def mapped(x):
        return jax.vmap(reorder)(x, PERMUTATIONS, INVERSES)

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        np.testing.assert_allclose(
            derivative(lambda x: value(mapped, x))(X), derivative(lambda x: value(looped, x))(X), atol=1e-6
        )


def test_no_scatter_is_left_in_the_gradient():
    def gradient(x):
        return jax.grad(lambda x: jnp.sum(reorder(x, PERMUTATIONS[0], INVERSES[0]) ** 2))(x)

    assert "scatter" not in jax.jit(gradient).lower(X).as_text()
