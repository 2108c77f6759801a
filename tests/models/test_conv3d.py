"""Both formulations are one bilinear map, and so are all their derivatives and batched forms."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from jax.sharding import PartitionSpec as P

from equiscale.flops import flops
from equiscale.models import conv3d as module
from equiscale.models.conv3d import conv3d, conv3d_transpose

# Compiling takes most of the time here, so let it optimise little.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

LAYERS = ((1, 1), (3, 1), (5, 1), (3, 2), (4, 2), (4, "up"))
FORMULATIONS = ("direct", "slabs")


def reference(x, kernel, stride):
    """The definition: every output voxel reads `size`^3 voxels of the padded input; "up" is the transpose."""
    size, up = kernel.shape[0], stride == "up"
    stride, pad = 2 if up else stride, (size - 1) // 2
    grid = np.array(x.shape[1:4]) * (2 if up else 1)
    padded, coarse = grid + 2 * pad, (grid + 2 * pad - size) // stride + 1
    starts, taps = (np.indices(shape).reshape(3, -1).T for shape in (coarse, (size,) * 3))
    reads = np.ravel_multi_index(tuple((stride * starts[:, None] + taps).transpose(2, 0, 1)), padded)
    flat = kernel.reshape(size**3, *kernel.shape[3:])
    if up:
        y = jnp.zeros((len(x), padded.prod(), kernel.shape[4]), x.dtype)
        y = y.at[:, reads].add(jnp.einsum("bni,tio->bnto", x.reshape(len(x), -1, x.shape[4]), flat))
        return y.reshape(-1, *padded, kernel.shape[4])[:, pad:-pad, pad:-pad, pad:-pad]
    x = jnp.pad(x, ((0, 0), *((pad, pad),) * 3, (0, 0))).reshape(len(x), -1, x.shape[4])
    return jnp.einsum("bnti,tio->bno", x[:, reads], flat).reshape(-1, *coarse, kernel.shape[4])


def layer(stride, formulation):
    if stride == "up":
        return lambda x, kernel: conv3d_transpose(x, kernel, formulation=formulation)
    return lambda x, kernel: conv3d(x, kernel, stride=stride, formulation=formulation)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def derivatives(f, x, kernel, dx, dkernel):
    """Value, derivatives of first and second order, both forward over reverse and reverse over reverse."""

    def loss(x, kernel):
        return jnp.sum(jnp.sin(f(x, kernel)))

    def gradient(x, kernel):
        return jax.grad(loss, (0, 1))(x, kernel)

    def slope(x, kernel):
        gx, gkernel = gradient(x, kernel)
        return jnp.vdot(gx, dx) + jnp.vdot(gkernel, dkernel)

    return {
        "value and jvp": jax.jvp(f, (x, kernel), (dx, dkernel)),
        "gradient and forward-over-reverse": jax.jvp(gradient, (x, kernel), (dx, dkernel)),
        "reverse-over-reverse": jax.grad(slope, (0, 1))(x, kernel),
    }


def assert_same(actual, expected, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max()))


@pytest.mark.parametrize("size, stride", LAYERS)
@settings(max_examples=2)
@given(
    grid=st.tuples(*[st.integers(2, 5)] * 3),
    batch=st.integers(1, 3),
    c_in=st.integers(1, 4),
    c_out=st.integers(1, 4),
)
@example(grid=(3, 2, 2), batch=2, c_in=3, c_out=2)  # planes smaller than a kernel
@example(grid=(2, 4, 4), batch=1, c_in=2, c_out=40)  # fewer voxels than channels
def test_values_and_derivatives_to_second_order_are_those_of_the_definition(size, stride, grid, batch, c_in, c_out):
    with jax.enable_x64(True):
        x, dx = normal(0, 2, batch, *grid, c_in)
        kernel, dkernel = normal(1, 2, size, size, size, c_in, c_out)
        args = (x, kernel, dx, dkernel)
        expected = jit(lambda *args: derivatives(lambda x, k: reference(x, k, stride), *args))(*args)
        assert_same(jit(lambda *args: derivatives(layer(stride, "slabs"), *args))(*args), expected)
        value = expected["value and jvp"][0]  # the derivatives of lax's own are JAX's
        assert_same(jit(layer(stride, "direct"))(x, kernel), value)


@pytest.mark.parametrize("size, stride", LAYERS)
@pytest.mark.parametrize("axes", [(1, None), (None, 3), (2, 1)])
def test_vmap_is_a_loop(size, stride, axes, x64):
    arguments = []
    for seed, shape, axis in zip((0, 1), ((2, 4, 3, 2, 3), (size, size, size, 3, 2)), axes, strict=True):
        shape = shape if axis is None else (*shape[:axis], 3, *shape[axis:])
        arguments.append(normal(seed, *shape))
    f = layer(stride, "slabs")

    def gradient(x, kernel):
        return jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args))), (0, 1))(x, kernel)

    @jax.jit
    def loop(*arguments):
        each = [
            [a if axis is None else jnp.take(a, i, axis) for a, axis in zip(arguments, axes, strict=True)]
            for i in range(3)
        ]
        results = [(f(*args), gradient(*args)) for args in each]
        return jax.tree.map(lambda *a: jnp.stack(a), *results)

    batched = jit(lambda *arguments: (jax.vmap(f, axes)(*arguments), jax.vmap(gradient, axes)(*arguments)))
    assert_same(batched(*arguments), loop(*arguments))


def test_a_kernel_shared_under_vmap_gets_one_gradient_not_one_per_example():
    def loss(kernel, xs):
        return jnp.sum(jax.vmap(lambda x: conv3d(x, kernel, formulation="slabs"))(xs))

    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(jnp.zeros((3, 3, 3, 2, 2)), jnp.zeros((5, 1, 4, 4, 4, 2))))
    assert jaxpr.count("kernel_gradient_slabs") == 1
    assert "while" not in jaxpr and "scan" not in jaxpr


def test_gradient_through_scan_is_that_of_the_unrolled_loop(x64):
    x, kernel = normal(0, 2, 4, 4, 4, 3), normal(1, 3, 3, 3, 3, 3) / 9

    def scanned(x, kernel):
        return jnp.sum(jax.lax.scan(lambda x, _: (jnp.tanh(conv3d(x, kernel)), None), x, length=3)[0] ** 2)

    def unrolled(x, kernel):
        for _ in range(3):
            x = jnp.tanh(conv3d(x, kernel))
        return jnp.sum(x**2)

    assert_same(jit(jax.grad(scanned, (0, 1)))(x, kernel), jax.grad(unrolled, (0, 1))(x, kernel))


@pytest.mark.parametrize("c_in, c_out", [(2, 3), (3, 2)])
@pytest.mark.parametrize("chunk_bytes", [1, 5_000, 20_000])
def test_kernel_gradient_does_not_depend_on_the_chunks(chunk_bytes, c_in, c_out, monkeypatch, x64):
    x, y = normal(0, 5, 7, 4, 3, c_in), normal(1, 5, 7, 4, 3, c_out)
    expected = module._kernel_gradient_slabs(x, y, taps=3, padding=1)
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    assert_same(module._kernel_gradient_slabs(x, y, taps=3, padding=1), expected)


@pytest.mark.parametrize("size, stride", LAYERS)
def test_the_transpose_in_x_is_the_adjoint(size, stride, x64):
    x, kernel = normal(0, 2, 4, 4, 6, 3), normal(1, size, size, size, 3, 2)
    f = layer(stride, "slabs")
    y = f(x, kernel)
    (adjoint,) = jax.linear_transpose(lambda x: f(x, kernel), x)(y)
    np.testing.assert_allclose(jnp.vdot(adjoint, x), jnp.vdot(y, y), rtol=1e-12)
    if (size, stride) == (4, 2):
        assert_same(conv3d_transpose(y, kernel.swapaxes(3, 4)), adjoint)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 3e-6), (jnp.bfloat16, 2e-2)])
def test_lower_precisions_keep_their_dtype_and_accuracy(formulation, dtype, tolerance):
    x, kernel = normal(0, 2, 6, 6, 6, 8), normal(1, 3, 3, 3, 8, 8)

    def both(x, kernel):
        y, pull = jax.vjp(layer(1, formulation), x, kernel)
        return y, *pull(y)

    low = jit(both)(x.astype(dtype), kernel.astype(dtype))
    assert all(a.dtype == dtype for a in low)
    with jax.enable_x64(True):
        rounded = [np.asarray(a.astype(dtype), np.float64) for a in (x, kernel)]
        high = jax.vjp(lambda x, k: reference(x, k, 1), *map(jnp.asarray, rounded))
        expected = (high[0], *high[1](jnp.asarray(np.asarray(low[0], np.float64))))
        assert_same([np.asarray(a, np.float64) for a in low], expected, tolerance)


@pytest.mark.parametrize("chunk_bytes", [module._CHUNK_BYTES, 2_000])
def test_sharded_gradients_are_those_of_one_device(chunk_bytes, monkeypatch, x64):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    devices = jax.device_count()
    x, kernel = normal(0, devices, 4, 4, 4, 2), normal(1, 3, 3, 3, 2, 3)

    def gradient(x, kernel):
        return jax.grad(lambda kernel: jnp.sum(jnp.sin(conv3d(x, kernel, formulation="slabs"))))(kernel)

    expected = gradient(x, kernel)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(x, jax.NamedSharding(mesh, P("data")))
    assert_same(jit(gradient)(sharded, kernel), expected)
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    assert_same(jit(mapped)(sharded, kernel), expected)
    explicit = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharded = jax.device_put(x, jax.NamedSharding(explicit, P("data")))
    assert conv3d(sharded, kernel).sharding.spec[0] == "data"


@pytest.mark.parametrize(
    "x, kernel, options, message",
    [
        ((4, 4, 4, 2), (3, 3, 3, 2, 2), {}, "3D convolution takes"),
        ((1, 4, 4, 4, 2), (3, 3, 3, 3, 2), {}, "x has 2 channels, but the kernel takes 3"),
        ((1, 4, 4, 4, 2), (4, 4, 4, 2, 2), {}, r"cube of side \(1, 3, 5\)"),
        ((1, 4, 4, 4, 2), (3, 3, 1, 2, 2), {}, "cube"),
        ((1, 4, 4, 4, 2), (3, 3, 3, 2, 2), {"stride": 3}, "stride must be one of"),
        ((1, 4, 4, 4, 2), (3, 3, 3, 2, 2), {"formulation": "fft"}, "formulation must be"),
    ],
)
def test_errors_name_the_offending_value(x, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        conv3d(jnp.zeros(x), jnp.zeros(kernel), **options)


def test_the_transposed_convolution_takes_kernels_of_side_4_only():
    with pytest.raises(ValueError, match=r"cube of side \(4,\)"):
        conv3d_transpose(jnp.zeros((1, 4, 4, 4, 2)), jnp.zeros((3, 3, 3, 2, 2)))


def test_slabs_cost_what_convolutions_cost():
    args = jax.ShapeDtypeStruct((2, 8, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 3, 5), jnp.float32)

    def cost(formulation):
        loss = lambda x, kernel: conv3d(x, kernel, formulation=formulation).sum()  # noqa: E731
        return flops(jax.value_and_grad(loss, argnums=(0, 1)), *args)

    assert cost("slabs") == pytest.approx(cost("direct"), rel=0.01)
