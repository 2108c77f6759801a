"""The public contract, as users write it: these lines must go on running."""

import jax
import jax.numpy as jnp

import equiscale as es


def test_the_contract():
    def f(x):
        return jnp.tanh(x)

    x = jax.random.normal(jax.random.key(0), (16, 9, 3))
    y = x
    sym = es.Symmetry(measure=es.so3.coset(60), act_in=es.vectors, act_out=es.vectors)
    d = es.decompose(f, sym, x, y, key=jax.random.key(1))
    numbers = (d.total, d.mean, d.equiv, d.percent, d.percent_stderr, d.floor)
    assert all(n.shape == () and n > 0 for n in numbers)
    assert 5 < d.percent < 8 and d.floor < 1e-8

    papers = es.Symmetry(measure=es.so3.haar(10), act_in=es.vectors, act_out=es.vectors)
    plug_in = es.decompose(f, papers, x, y, key=jax.random.key(1), plug_in=True)
    assert plug_in.estimator == "plug-in" and plug_in.percent < d.percent

    f_sym = es.twirl(f, sym)
    assert f_sym(jax.random.key(2), x).shape == x.shape

    cube = es.Symmetry(measure=es.octahedral.enumerate(), act_in=es.grid, act_out=es.grid)
    grids = jax.random.normal(jax.random.key(0), (4, 2, 6, 6, 6))
    assert es.decompose(f, cube, grids, grids, key=jax.random.key(1)).percent < 1e-9
