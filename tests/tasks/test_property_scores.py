"""Scores by property against float64 NumPy, on a function whose broken symmetry is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import equiscale as es
from equiscale.rotations import cube
from equiscale.tasks.property_scores import Property, property_moments, property_record

ACTIONS = {"scalars": es.scalars, "vectors": es.vectors, "tensors": es.tensors(2)}
SYMMETRY = es.Symmetry(es.octahedral.enumerate(), es.vectors, ACTIONS)
PROPERTIES = (
    Property("size", "Å", "scalar", 2.0, lambda tree: tree["scalars"][:, 1:]),
    Property("direction", "D", "vector", 3.0, lambda tree: tree["vectors"][:, 0]),
    Property("shape", "D Å", "tensor", 1.5, lambda tree: tree["tensors"].reshape(-1, 9)),
)
N = 40
X = np.random.default_rng(0).normal(size=(N, 4, 3))
NOISE = np.random.default_rng(1).normal(size=(N, 5))


def exact(x):
    tensors = np.einsum("...ai,...aj->...ij", x, x)
    tensors = tensors - np.trace(tensors, axis1=-1, axis2=-2)[..., None, None] / 3 * np.eye(3)
    scalars = np.stack([x[..., 0, 0], np.square(x).sum((-1, -2))], -1)
    return {"scalars": scalars, "vectors": x.mean(-2)[..., None, :], "tensors": tensors}


Y = exact(X)
Y |= {"scalars": Y["scalars"] + NOISE[:, :2] + 0.7, "vectors": Y["vectors"] + 0.3 * NOISE[:, None, 2:]}


def broken(x):
    """Scalars that see the x axis, vectors and tensors stretched along z."""
    size = jnp.square(x).sum((-1, -2)) + 0.8 * x[..., 0, 0]
    stretch = jnp.array([1.0, 1.0, 1.5])
    tensors = jnp.einsum("...ai,...aj->...ij", x * stretch, x, precision="highest")
    scalars = jnp.stack([x[..., 0, 0], size], -1)
    return {"scalars": scalars, "vectors": (x.mean(-2) * stretch)[..., None, :], "tensors": tensors}


def turned_back(part, g):
    return (g.T @ part.reshape(-1, 3, 3) @ g).reshape(-1, 9)


def reference():
    """R^2 and distances by loops over molecules and rotations."""
    found = {}
    for i, p in enumerate(PROPERTIES):
        y = np.asarray(p.of(Y), np.float64)
        z = []
        for g in cube():
            part = np.asarray(p.of(jax.device_get(broken(X @ g.T))), np.float64)
            back = {"scalar": lambda a, g: a, "vector": lambda a, g: a @ g, "tensor": turned_back}[p.kind]
            z.append(back(part, g))
        z = np.array(z)
        mean = z.mean(0)
        variance = np.square(y - (y.mean(0) if i == 0 else 0)).sum(-1).mean()
        total, of_mean = np.square(z - y).sum(-1).mean(0), np.square(mean - y).sum(-1)
        found[p.name] = {
            "r2": 1 - total.mean() / variance,
            "r2_averaged": 1 - of_mean.mean() / variance,
            "r2_as_is": 1 - np.square(np.asarray(p.of(broken(X))) - y).sum(-1).mean() / variance,
            "mae": p.scale * np.linalg.norm(z - y, axis=-1).mean(),
            "mae_averaged": p.scale * np.linalg.norm(mean - y, axis=-1).mean(),
            "percent": 100 * (1 - of_mean.mean() / total.mean()),
        }
    return found


def moments(f, rows=slice(None), weight=None, **settings):
    x, y = jnp.asarray(X[rows], jnp.float32), jax.tree.map(lambda a: jnp.asarray(a[rows], jnp.float32), Y)
    weight = jnp.ones(len(x)) if weight is None else weight
    return property_moments(f, SYMMETRY, x, y, PROPERTIES, key=jax.random.key(0), weight=weight, **settings)


@pytest.fixture(scope="module")
def whole():
    return jax.jit(lambda: moments(broken))()


def test_against_loops(whole):
    found = property_record(whole, PROPERTIES)
    for name, wanted in reference().items():
        for statistic, value in wanted.items():
            assert found[name][statistic] == pytest.approx(value, rel=1e-4), (name, statistic)
        gain = wanted["r2_averaged"] - wanted["r2"]
        assert found[name]["r2_gain"] == pytest.approx(gain, rel=1e-3) and gain > 0.01
    assert [found[p.name]["unit"] for p in PROPERTIES] == ["Å", "D", "D Å"]


def test_standard_errors_are_those_of_a_jackknife(whole):
    found = property_record(whole, PROPERTIES)
    parts = jax.jit(lambda weight: moments(broken, weight=weight))
    without = [property_record(parts(jnp.ones(N).at[i].set(0.0)), PROPERTIES) for i in range(N)]
    for name, of in found.items():
        for statistic in ("r2", "r2_averaged", "r2_gain", "mae", "percent"):
            values = np.array([w[name][statistic] for w in without])
            jackknife = np.sqrt((N - 1) * values.var())
            assert of[f"{statistic}_stderr"] == pytest.approx(jackknife, rel=0.2), (name, statistic)


def test_batches_and_devices_add_up(whole):
    ragged = jnp.array([1.0] * 8 + [0.0] * 8)
    rows = np.minimum(np.arange(32, 48), N - 1)
    parts = jax.jit(lambda: moments(broken, slice(0, 32)) + moments(broken, rows, ragged))()
    wanted, found = property_record(whole, PROPERTIES), property_record(parts, PROPERTIES)
    assert found["size"]["r2_stderr"] == pytest.approx(wanted["size"]["r2_stderr"], rel=1e-3)
    assert found["direction"]["mae_averaged"] == pytest.approx(wanted["direction"]["mae_averaged"], rel=1e-5)

    mesh = jax.make_mesh((2, 4), ("data", "element"), axis_types=(AxisType.Auto,) * 2)
    x, y = jnp.asarray(X, jnp.float32), jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), Y)

    def on_device(x, y, weight):
        axes = {"axis_name": "data", "element_axis": "element"}
        return property_moments(broken, SYMMETRY, x, y, PROPERTIES, key=jax.random.key(0), weight=weight, **axes)

    data = jax.P("data")
    spread = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=(data, data, data), out_specs=jax.P()))
    found = property_record(spread(x, y, jnp.ones(N)), PROPERTIES)
    for name in found:
        for statistic in ("r2", "r2_gain", "mae", "r2_stderr"):
            assert found[name][statistic] == pytest.approx(wanted[name][statistic], rel=1e-3)


def test_what_keeps_the_symmetry_gains_nothing_by_averaging():
    def invariant(x):
        scalars = jnp.square(x).sum((-1, -2))[:, None] * jnp.ones(2)
        tensors = jnp.einsum("nai,naj->nij", x, x, precision="highest")
        return {"scalars": scalars, "vectors": x.mean(-2)[:, None], "tensors": tensors}

    for of in property_record(jax.jit(lambda: moments(invariant))(), PROPERTIES).values():
        assert abs(of["r2_gain"]) < 1e-6 and of["percent"] < 1e-4
        assert of["r2"] == pytest.approx(of["r2_as_is"], abs=1e-6)
