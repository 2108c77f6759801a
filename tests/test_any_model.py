"""All instruments on one network written four ways, a function of a dict, linen, Equinox and nnx: the same numbers."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import equiscale as es
from equiscale import curvature, subspace, theorems
from equiscale.capture import capture
from equiscale.components import components
from equiscale.gradients import gradients
from equiscale.latents import fit_representation, latent_cosines, rotations_by_axis
from equiscale.lie import lie_derivative
from equiscale.parameters import insert, select

KEYS = jax.random.split(jax.random.key(0), 4)
FIRST, BIAS, LAST = (jax.random.normal(k, s) for k, s in zip(KEYS, ((3, 6), (6,), (6, 3)), strict=False))
X, Y = jax.random.normal(KEYS[3], (2, 8, 4, 3))
SYMMETRY = es.Symmetry(es.so3.coset(12), es.vectors, es.vectors)
VECTORS = subspace.kernel(es.vectors, es.vectors)  # six features as two vectors


def two_vectors(g, row):
    return es.vectors(g, row.reshape(2, 3)).reshape(6)


def plain():
    return (lambda p, x: jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]), {"a": FIRST, "b": BIAS, "c": LAST}, "a", "c", "tanh*"


def linen():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, use_bias=False, name="last")(jnp.tanh(nn.Dense(6, name="first")(x)))

    params = {"params": {"first": {"kernel": FIRST, "bias": BIAS}, "last": {"kernel": LAST}}}
    return Net().apply, params, "params/first/kernel", "params/last/kernel", "*tanh*"


def equinox():
    class Net(eqx.Module):
        first: eqx.nn.Linear
        last: eqx.nn.Linear

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    net = Net(eqx.nn.Linear(3, 6, key=KEYS[0]), eqx.nn.Linear(6, 3, use_bias=False, key=KEYS[1]))
    net = eqx.tree_at(lambda n: (n.first.weight, n.first.bias, n.last.weight), net, (FIRST.T, BIAS, LAST.T))
    params, static = eqx.partition(net, eqx.is_array)

    def apply(params, x):
        return jax.vmap(jax.vmap(eqx.combine(params, static)))(x)

    return apply, params, "first/weight", "last/weight", "*tanh*"


def flax_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 6, rngs=rngs)
            self.last = nnx.Linear(6, 3, use_bias=False, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    net = Net(nnx.Rngs(0))
    net.first.kernel[...], net.first.bias[...], net.last.kernel[...] = FIRST, BIAS, LAST
    graph, state = nnx.split(net)
    return (lambda state, x: nnx.merge(graph, state)(x)), state, "first/kernel*", "last/kernel*", "*tanh*"


def measured(apply, params, first, last, hidden):
    """Each instrument once, as numbers that do not depend on how a framework lays a kernel out."""
    found = jax.jit(lambda p: gradients(apply, p, SYMMETRY, X, Y, key=KEYS[0]))(params)
    numbers = {"purity": found.norms.purity, "gradient": found.norms.mean}

    (path,), (other,) = select(params, first), select(params, last)
    chosen = select(params, path, other)
    transposed = chosen[path].shape == (6, 3)
    to_hidden = (two_vectors, es.vectors) if transposed else (es.vectors, two_vectors)
    acts = {path: subspace.kernel(*to_hidden), other: subspace.kernel(*to_hidden[::-1])}
    parts = subspace.split(chosen, es.so3.quadrature(2), acts)
    numbers["outside"] = sum(jnp.sum(a**2) for a in parts.complement.values())
    twin = insert(params, parts.scaled(0.0))
    numbers["twin"] = jax.jit(lambda p: es.decompose(lambda x: apply(p, x), SYMMETRY, X, Y, key=KEYS[0]).equiv)(twin)

    c = components(apply, params, SYMMETRY, X, Y, key=KEYS[0], only=[path, other])
    matrices = curvature.hessians(c)
    numbers |= {f"trace {part}": np.trace(m) for part, m in matrices.items()}
    numbers["top"] = curvature.extremes(c, "equiv", key=KEYS[1], n_steps=36).largest
    np.testing.assert_allclose(numbers["top"], np.linalg.eigvalsh(matrices["equiv"])[-1], rtol=1e-8)
    bounds = theorems.bounds(c, theorems.deviation(c, es.so3.quadrature(2), acts))
    numbers |= {"highest": bounds.highest, "deviation": bounds.deviation}

    latent = capture(lambda x: apply(params, x), hidden)
    cosines = latent_cosines(latent, es.vectors, X, rotations_by_axis((90,), "z"), key=KEYS[2])
    numbers["cosine"] = np.median(cosines.raw.same["z 90°"])
    turned = es.vectors(jnp.asarray(rotations_by_axis((90,), "z")["z 90°"], X.dtype), X)
    rows = [np.asarray(latent(x)).reshape(-1, 6) for x in (X, turned)]
    numbers["representation"] = fit_representation(*rows, key=KEYS[2]).error
    numbers["lie"] = lie_derivative(lambda x: apply(params, x), SYMMETRY, X).square
    return {name: float(value) for name, value in numbers.items()}


@pytest.fixture(scope="module")
def reference():
    return measured(*plain())


@pytest.mark.parametrize("framework", [linen, equinox, flax_nnx], ids=lambda f: f.__name__)
def test_every_instrument_gives_the_numbers_of_the_plain_function(framework, reference):
    found = measured(*framework())
    assert found.keys() == reference.keys()
    for name, value in reference.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=1e-10, err_msg=name)


def test_the_numbers_are_of_a_model_without_symmetry(reference):
    assert reference["purity"] > 0.01 and reference["outside"] > 1 and reference["lie"] > 0.01
    assert reference["deviation"] == pytest.approx(reference["outside"], rel=1e-5)
    assert 0 < reference["representation"] < 1
