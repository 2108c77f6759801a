"""3D convolutions of channels-last grids that are fast on CPUs too.

On GPU and TPU these are `lax.conv_general_dilated`. On CPU XLA's own 3D convolution is three to ten times
slower than Eigen's 2D one, and fifty times and more where it is transposed (`benchmarks/conv3d.py`). There the same
maps are computed from depth slabs:

- forward: the slabs of `[b, d, h, w, c]` are images of one 2D convolution to channels for every depth tap, which
  are added up, each moved to its place;
- input gradient: the forward with the kernel mirrored in space and its channel axes swapped;
- kernel gradient: one matrix product `[c_in, voxels] @ [voxels, taps * c_out]` per in-plane tap, over
  chunks of voxels that stay in cache;
- few voxels: both are one matrix product with all neighbours of each voxel side by side;
- stride 2: every 2^3 cell becomes one voxel with 8 times the channels, convolved at stride 1.

The slab convolution and its kernel gradient are JAX primitives, bilinear and closed under transposition. That
is all JAX needs to give `grad`, `jvp`, Hessian-vector products and `vmap` of any order at the same speed; a
`custom_vjp` would lose forward mode, and under `vmap` compute one kernel gradient per mapped example.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from equiscale.flops import RULES, flops
from equiscale.varying import vary_alike

Formulation = Literal["direct", "slabs"]

# Operands of one chunk of a kernel gradient: what the second-level caches of two cores hold. The speed is
# flat within a factor of two of it.
_CHUNK_BYTES = 4 * 2**20

_NDHWC = ("NDHWC", "DHWIO", "NDHWC")


def conv3d(x: Array, kernel: Array, *, stride: int = 1, formulation: Formulation | None = None) -> Array:
    """Cross-correlation `y[i] = sum_t x[stride * i + t - padding] kernel[t]`, with zeros outside the grid.

    The padding `(size - 1) // 2` keeps the grid at stride 1, and is that of VoxMol's layers at stride 2.

    Args:
      x: `[batch, d, h, w, c_in]`.
      kernel: `[size, size, size, c_in, c_out]`, of side 1, 3 or 5 at stride 1, 3 or 4 at stride 2.
      stride: 1 or 2, the same along the three axes.
      formulation: `"direct"` is `lax.conv_general_dilated`, `"slabs"` the one described above. The default is
        slabs on CPU, unless `x` is sharded over explicit mesh axes, and direct elsewhere.

    Returns:
      `[batch, d', h', w', c_out]`; at stride 2 `d'` is `ceil(d / 2)` for side 3, `floor(d / 2)` for side 4.

    Raises:
      ValueError: on any other rank, kernel shape, stride or formulation.
    """
    x, kernel = _check(x, kernel, {1: (1, 3, 5), 2: (3, 4)}, stride)
    size = kernel.shape[0]
    padding = (size - 1) // 2
    if size == 1:
        return x @ kernel[0, 0, 0]
    if _resolve(formulation, x) == "direct":
        around = ((padding, padding),) * 3
        return lax.conv_general_dilated(x, kernel, (stride,) * 3, around, dimension_numbers=_NDHWC)
    if stride == 1:
        return _conv(x, kernel, padding=padding)
    # Cells start one voxel outside the grid, so that output i reads just the cells i and i + 1.
    after = [2 * ((n + 2 - size) // 2 + 1) + 1 - n for n in x.shape[1:4]]
    cells = _space_to_channels(jnp.pad(x, ((0, 0), *((1, n) for n in after), (0, 0))))
    return _conv(cells, _cell_kernel(kernel), padding=0)


def conv3d_transpose(x: Array, kernel: Array, *, formulation: Formulation | None = None) -> Array:
    """Doubles the grid: `y[2 i + t - 1] += x[i] kernel[t]`, torch's `ConvTranspose3d(4, stride=2, padding=1)`.

    This is the transpose of the linear map `y -> conv3d(y, kernel.swapaxes(3, 4), stride=2)`. Torch's weight
    `[in, out, t, t, t]` becomes the kernel by `transpose(2, 3, 4, 0, 1)`; nothing is flipped.

    Args:
      x: `[batch, d, h, w, c_in]`.
      kernel: `[4, 4, 4, c_in, c_out]`.
      formulation: as in `conv3d`.

    Returns:
      `[batch, 2 d, 2 h, 2 w, c_out]`.

    Raises:
      ValueError: on any other rank, kernel shape or formulation.
    """
    x, kernel = _check(x, kernel, {2: (4,)}, 2)
    if _resolve(formulation, x) == "direct":
        kernel, padding = kernel[::-1, ::-1, ::-1], ((2, 2),) * 3
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, lhs_dilation=(2, 2, 2), dimension_numbers=_NDHWC)
    cells = _conv(x, _mirror(_cell_kernel(kernel.swapaxes(3, 4))), padding=1)
    return _channels_to_space(cells)[:, 1:-1, 1:-1, 1:-1]


def _check(x: Array, kernel: Array, sides: dict, stride: int) -> tuple[Array, Array]:
    """Both operands in their common dtype, once their shapes fit and the kernel's side fits the stride."""
    if x.ndim != 5 or kernel.ndim != 5:
        raise ValueError(
            "a 3D convolution takes x [batch, d, h, w, c_in] and kernel [size, size, size, c_in, c_out], "
            f"got shapes {x.shape} and {kernel.shape}"
        )
    if stride not in sides:
        raise ValueError(f"stride must be one of {list(sides)}, got {stride}")
    if len(set(kernel.shape[:3])) > 1 or kernel.shape[0] not in sides[stride]:
        raise ValueError(
            f"at stride {stride} the kernel must be a cube of side {sides[stride]}, got {kernel.shape[:3]}"
        )
    if x.shape[4] != kernel.shape[3]:
        raise ValueError(f"x has {x.shape[4]} channels, but the kernel takes {kernel.shape[3]}")
    dtype = jnp.result_type(x, kernel)
    return x.astype(dtype), kernel.astype(dtype)


def _resolve(formulation: Formulation | None, x: Array) -> Formulation:
    if formulation is None:
        explicit = any(axis is not None for axis in jax.typeof(x).sharding.spec)
        return "slabs" if jax.default_backend() == "cpu" and not explicit else "direct"
    if formulation not in ("direct", "slabs"):
        raise ValueError(f'formulation must be "direct", "slabs" or None, got {formulation!r}')
    return formulation


def _space_to_channels(x: Array) -> Array:
    """`[b, 2d, 2h, 2w, c]` to `[b, d, h, w, 8c]`."""
    b, d, h, w, c = x.shape
    x = x.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, d // 2, h // 2, w // 2, 8 * c)


def _channels_to_space(x: Array) -> Array:
    """The inverse of `_space_to_channels`."""
    b, d, h, w, c = x.shape
    x = x.reshape(b, d, h, w, 2, 2, 2, c // 8).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, 2 * d, 2 * h, 2 * w, c // 8)


def _cell_kernel(kernel: Array) -> Array:
    """A kernel of side 3 or 4 and stride 2 as one of side 2 and stride 1 on 2^3 cells, `[2, 2, 2, 8c, o]`."""
    size, _, _, c, o = kernel.shape
    kernel = jnp.pad(kernel, ((0, 4 - size),) * 3 + ((0, 0),) * 2).reshape(2, 2, 2, 2, 2, 2, c, o)
    return kernel.transpose(0, 2, 4, 1, 3, 5, 6, 7).reshape(2, 2, 2, 8 * c, o)


def _mirror(kernel: Array) -> Array:
    """The kernel of the transposed convolution: mirrored in space, channel axes swapped."""
    return kernel[::-1, ::-1, ::-1].swapaxes(3, 4)


# The two bilinear maps of stride 1, and how a CPU computes them:
#   _conv             y[i] = sum_t x[i + t - padding] kernel[t]
#   _kernel_gradient  kernel[t] = sum_i x[i + t - padding] y[i]


def _conv_slabs(x: Array, kernel: Array, *, padding: int) -> Array:
    """`_conv` as a 2D convolution of depth slabs, whose results for all depth taps lie side by side as channels."""
    (b, d, h, w, _), (taps, *_, o) = x.shape, kernel.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # CPUs gain nothing from half precision
    # Of planes smaller than the kernel Eigen's convolution takes up to twenty times as long as columns.
    if _few_voxels(b, *(n + 2 * padding - taps + 1 for n in (d, h, w)), o) or max(h, w) < taps:
        y = _columns(x.astype(dtype), taps=taps, padding=padding)
        return (y @ kernel.astype(dtype).reshape(-1, o)).astype(x.dtype)
    plane = jnp.moveaxis(kernel.astype(dtype), 0, 3).reshape(taps, taps, -1, taps * o)
    # The barriers keep XLA from repeating the element-wise work around it for every tap.
    images = lax.optimization_barrier(lax.collapse(x.astype(dtype), 0, 2))
    # One row more than asked for, dropped again: where images grow XLA takes Eigen's convolution, which is up to
    # twice as fast as YNNPACK's.
    around = ((padding, taps - padding), (padding, padding))
    y = lax.conv_general_dilated(images, plane, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = lax.optimization_barrier(y[:, : h + 2 * padding - taps + 1]).reshape(b, d, -1, *y.shape[2:])
    sums = _sums_of_taps(jnp.split(y, taps, axis=-1), padding, d + 2 * padding - taps + 1)
    return jnp.concatenate(list(sums), axis=1).astype(x.dtype)


def _few_voxels(*shape: int) -> bool:
    """Whether `[b, d, h, w, o]` has no more voxels than channels, so that columns are no more numbers than a kernel:
    then they are put together in less time than slabs need to put the kernel into another order.
    """
    *grid, o = shape
    return math.prod(grid) <= o


def _columns(x: Array, *, taps: int, padding: int) -> Array:
    """All neighbours of each voxel side by side, `[b, d', h', w', taps^3 c]`, in the order of a kernel's axes."""
    around = (padding, padding)
    d, h, w = (n + 2 * padding - taps + 1 for n in x.shape[1:4])
    x = _pad(x, (0, 0), around, around, around)
    starts = itertools.product(range(taps), repeat=3)
    return lax.optimization_barrier(
        jnp.concatenate([x[:, i : i + d, j : j + h, k : k + w] for i, j, k in starts], axis=-1)
    )


def _sums_of_taps(slabs: list[Array], padding: int, d_out: int) -> Iterator[Array]:
    """`y[:, i] = sum_t slabs[t][:, i + t - padding]`, in runs of i that the same taps reach.

    A sum of padded arrays would write each of them to memory first.
    """
    d = slabs[0].shape[1]

    def reaching(i: int) -> tuple[int, ...]:
        return tuple(t for t in range(len(slabs)) if 0 <= i + t - padding < d)

    for taps, run in itertools.groupby(range(d_out), reaching):
        run = list(run)
        yield sum(slabs[t][:, run[0] + t - padding : run[-1] + 1 + t - padding] for t in taps)


def _kernel_gradient_slabs(x: Array, y: Array, *, taps: int, padding: int) -> Array:
    """`_kernel_gradient` as matrix products over chunks of samples, or of the slabs of one large sample."""
    (b, d, h, w, c), (*_, h_out, w_out, o) = x.shape, y.shape
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if _few_voxels(*y.shape):
        columns = _columns(x.astype(dtype), taps=taps, padding=padding).reshape(-1, taps**3 * c)
        return (columns.T @ y.astype(dtype).reshape(-1, o)).reshape(taps, taps, taps, c, o).astype(x.dtype)
    if c > o:  # the wider operand should be the one that is shifted along depth only
        return _mirror(_kernel_gradient_slabs(y, x, taps=taps, padding=taps - 1 - padding))
    slabs = max(1, _CHUNK_BYTES // (h * w * (c + taps * o) * dtype.itemsize))
    n_sections, depth = _split(d, slabs)
    n_groups, samples = _split(b, max(1, slabs // depth) if n_sections == 1 else 1)

    # Zeros fill the last chunk and add nothing. The barriers are those of `_conv_slabs`. What surrounds the grid is
    # added to chunks, which are in cache; only sections of a sample get their neighbours' slabs beforehand.
    out_dtype, halo, fill = x.dtype, taps - 1 - padding, n_sections * depth - d
    x, y = lax.optimization_barrier((x.astype(dtype), y.astype(dtype)))
    x = _pad(x, (0, n_groups * samples - b), (0, fill))
    y = _pad(y, (0, n_groups * samples - b), (halo, halo + fill) if n_sections > 1 else (0, 0))
    if n_sections > 1:
        y = jnp.stack([y[:, i : i + depth + taps - 1] for i in range(0, d + fill, depth)], axis=1)
        halo = 0
    x = x.reshape(n_groups * n_sections, samples, depth, *x.shape[2:])
    y = y.reshape(n_groups * n_sections, samples, -1, *y.shape[-3:])

    def add_chunk(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        x, y = chunk
        x = lax.optimization_barrier(_pad(x, (0, 0), (0, 0), (padding, padding), (padding, padding)))
        y = lax.optimization_barrier(_pad(y, (0, 0), (halo, halo)))
        y = jnp.concatenate([y[:, t : t + depth] for t in reversed(range(taps))], axis=-1)
        y = lax.optimization_barrier(y).reshape(-1, taps * o)
        planes = [x[:, :, i : i + h_out, j : j + w_out] for i in range(taps) for j in range(taps)]
        return total + jnp.stack([plane.reshape(-1, c).T @ y for plane in planes]), None

    total, _ = vary_alike(jnp.zeros((taps * taps, c, taps * o), dtype), x)
    if len(x) == 1:
        total, _ = add_chunk(total, (x[0], y[0]))
    else:
        total, _ = lax.scan(add_chunk, total, (x, y))
    return total.reshape(taps, taps, c, taps, o).transpose(3, 0, 1, 2, 4).astype(out_dtype)


def _pad(x: Array, *widths: tuple[int, int]) -> Array:
    """Zeros before and after the first axes."""
    return jnp.pad(x, (*widths, *((0, 0),) * (x.ndim - len(widths))))


def _split(size: int, most: int) -> tuple[int, int]:
    """The fewest equal parts of at most `most` that cover `size`: their number and length."""
    parts = max(1, -(-size // most))
    return parts, -(-size // parts)


def _conv(x: Array, kernel: Array, *, padding: int) -> Array:
    return _conv_p.bind(*vary_alike(x, kernel), padding=padding)


def _kernel_gradient(x: Array, y: Array, *, taps: int, padding: int) -> Array:
    return _kernel_gradient_p.bind(*vary_alike(x, y), taps=taps, padding=padding)


def _fold_batch(f: Callable, folds, operands, axes, **settings) -> tuple[Array, int]:
    """`vmap` of a bilinear map `f`.

    A new axis of operand i alone is folded into that operand's axis `folds[i][0]` and comes out of the result's
    axis `folds[i][1]`. If both have one, a loop: the alternative, grouped convolutions, is slow on CPU.
    """
    if None not in axes:
        both = tuple(jnp.moveaxis(a, axis, 0) for a, axis in zip(operands, axes, strict=True))
        return lax.map(lambda pair: f(*pair, **settings), both), 0
    i = 1 if axes[0] is None else 0
    into, out = folds[i]
    operand = jnp.moveaxis(operands[i], axes[i], into)
    pair = list(operands)
    pair[i] = lax.collapse(operand, into, into + 2)
    y = f(*pair, **settings)
    return y.reshape(*y.shape[:out], operand.shape[into], -1, *y.shape[out + 1 :]), out


def _bilinear_primitive(f, shape, settings, folds, transposes) -> Primitive:
    """The primitive computed by `f`, with its result's shape, static settings, `vmap` and transposes."""
    primitive = Primitive(f.__name__.strip("_"))
    primitive.def_impl(jax.jit(f, static_argnames=settings))
    primitive.def_abstract_eval(
        lambda a, b, **settings: a.update(shape=shape(a.shape, b.shape, **settings), weak_type=False)
    )
    ad.defbilinear(primitive, *transposes)
    batching.primitive_batchers[primitive] = partial(_fold_batch, primitive.bind, folds)
    mlir.register_lowering(primitive, mlir.lower_fun(f, multiple_results=False))
    return primitive


_conv_p = _bilinear_primitive(
    _conv_slabs,
    lambda x, k, padding: (x[0], *(n + 2 * padding - k[0] + 1 for n in x[1:4]), k[4]),
    ("padding",),
    ((0, 0), (4, 4)),
    (
        lambda y, x, k, padding: _conv(y, _mirror(k), padding=k.shape[0] - 1 - padding),
        lambda y, x, k, padding: _kernel_gradient(x, y, taps=k.aval.shape[0], padding=padding),
    ),
)
_kernel_gradient_p = _bilinear_primitive(
    _kernel_gradient_slabs,
    lambda x, y, taps, padding: (taps, taps, taps, x[4], y[4]),
    ("taps", "padding"),
    ((4, 3), (4, 4)),
    (
        lambda k, x, y, taps, padding: _conv(y, _mirror(k), padding=taps - 1 - padding),
        lambda k, x, y, taps, padding: _conv(x, k, padding=padding),
    ),
)


def _operations(x: Any, kernel: Any, padding: int) -> int:
    """Of either map: it meets each number of x with each weight that covers it."""
    settings = {"window_strides": (1,) * 3, "padding": ((padding, padding),) * 3, "dimension_numbers": _NDHWC}
    return flops(partial(lax.conv_general_dilated, **settings), x, kernel)


RULES[_conv_p.name] = lambda eqn: _operations(eqn.invars[0].aval, eqn.invars[1].aval, eqn.params["padding"])
RULES[_kernel_gradient_p.name] = lambda eqn: _operations(eqn.invars[0].aval, eqn.outvars[0].aval, eqn.params["padding"])
