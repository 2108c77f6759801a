"""A steerable 3D U-Net, the equivariant counterpart of `VoxelUNet`: a denoiser of voxelised molecules.

Features are fields of e3nn irreps: m_0 scalars, m_1 vectors, m_2 tensors of degree 2 in every voxel. A convolution's
kernel is K(r) = sum_p w_p f_p(|r|) C_p Y_p(r / |r|) (arXiv 1807.02547, section 4.2) with radial functions f, Clebsch-
Gordan coefficients C and spherical harmonics Y, so that K(g r) = D_out(g) K(r) D_in(g)^-1; only the w are learned.
Norms, gates and resampling act alike on all components of an irrep.

The model commutes, up to rounding, with the cube's 24 rotations, on even grids too: cells of 2^3 voxels are averaged,
and turning an even grid maps cells to cells, while a stride of 2 would read voxels 0, 2, 4, ..., which a turn maps to
the odd ones. Other rotations it commutes with approximately, since kernels and fields are sampled on the grid.

Irreps, blocks and kernels follow the U-Net of github.com/SCAN-NRAD/e3nn_Unet (the model of arXiv 2507.09753 is not
public), except that:
- radial functions start at r = 1, the centre having weights of its own. From r = 0 on, some meet no voxel at all;
- cells are averaged, where the maximum jumps at ties;
- the grid is doubled with its faces in place, where `align_corners` stretches it;
- the head is a convolution, as in VoxMol, so that the vectors and tensors of the last block are used.
"""

from __future__ import annotations  # evaluated, they would import e3nn

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jax import Array, lax

from equiscale import actions
from equiscale.models import e3nn
from equiscale.models.conv3d import conv3d

# Fields of `SteerableUNet` besides `n_elements`, named by the number of parameters. arXiv 2507.09753 trained 0.5
# million; 2 and 10 million continue it. Those for CPUs are for grids of side 8 to 24.
PRESETS = {
    "cpu_0.02M": {"multiplicities": (6, 3, 1), "n_levels": 3, "kernel_size": 3},
    "cpu_0.05M": {"multiplicities": (10, 4, 2), "n_levels": 3, "kernel_size": 3},
    "0.5M": {"multiplicities": (11, 5, 2), "n_levels": 4, "kernel_size": 5},
    "2M": {"multiplicities": (22, 10, 4), "n_levels": 4, "kernel_size": 5},
    "10M": {"multiplicities": (48, 24, 8), "n_levels": 4, "kernel_size": 5},
}


def _smooth_finite(x: np.ndarray) -> np.ndarray:
    """e3nn's radial function of that name but for a factor: exp(-2 / (1 - x^2)) between -1 and 1, otherwise 0."""
    return np.exp(-2 / np.maximum(1 - x**2, 1e-3))


@functools.cache
def kernel_basis(ir_in: e3nn.Irrep, ir_out: e3nn.Irrep, size: int, harmonics: e3nn.Irreps) -> np.ndarray:
    """The steerable kernels between two irreps, float64 `[n_basis, size, size, size, 2 l_in + 1, 2 l_out + 1]`.

    For each of the `harmonics` that couples the two there are `size - 1` kernels that leave out the centre, their
    radial functions half a voxel apart. (With one for each distance, a side of 3 turned less well under rotations
    other than the cube's.) Between equal irreps the identity in the centre is one more. Each is scaled such that
    independent inputs of variance 1 give variance 1, averaged over the components of `ir_out`.
    """
    half = size // 2
    axis = np.arange(-half, half + 1.0)
    r = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    distance = np.linalg.norm(r, axis=-1, keepdims=True)
    # In NumPy, and so float64 whatever is being traced, and on whichever devices.
    radial = _smooth_finite(2 * (distance - 1) - np.arange(size - 1))
    angular = [np.ones_like(distance)]
    for degree in range(1, harmonics.lmax + 1):
        coupling = e3nn.clebsch_gordan(degree - 1, 1, degree)
        angular.append(np.einsum("xyzm,xyzi,mio->xyzo", angular[-1], r / np.maximum(distance, 1), coupling))
    kernels = [np.zeros((0, size, size, size, ir_in.dim, ir_out.dim))]
    for _, ir in harmonics:
        if ir_out in ir_in * ir:
            coupling = e3nn.clebsch_gordan(ir_in.l, ir.l, ir_out.l)
            kernels.append(np.einsum("xyzk,xyzm,imo->kxyzio", radial, angular[ir.l], coupling))
    if ir_in == ir_out:
        kernels.append(np.zeros((1, *kernels[0].shape[1:])))
        kernels[-1][0, half, half, half] = np.eye(ir_in.dim)
    kernels = np.concatenate(kernels)
    return kernels / np.sqrt(np.sum(kernels**2, axis=(1, 2, 3, 4, 5), keepdims=True) / ir_out.dim)


def pool(x: Array) -> Array:
    """The means over cells of 2^3 voxels: `[batch, 2d, 2h, 2w, c]` to `[batch, d, h, w, c]`."""
    b, d, h, w, c = x.shape
    return jnp.mean(x.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2, c), axis=(2, 4, 6))


def upsample(x: Array) -> Array:
    """Linear interpolation, constant beyond the outer voxels: `[batch, d, h, w, c]` to `[batch, 2d, 2h, 2w, c]`.

    Along each axis y[2i] = (3 x[i] + x[i - 1]) / 4 and y[2i + 1] = (3 x[i] + x[i + 1]) / 4.
    """
    for axis in (1, 2, 3):
        n = x.shape[axis]
        part = functools.partial(lax.slice_in_dim, x, axis=axis)
        before = jnp.concatenate([part(0, 1), part(0, n - 1)], axis)
        after = jnp.concatenate([part(1, n), part(n - 1, n)], axis)
        x = lax.collapse(jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1), axis, axis + 2)
    return x


def _owner(irreps: e3nn.Irreps) -> np.ndarray:
    """The index of the irrep that each component belongs to, `[dim]`."""
    dims = [ir.dim for mul, ir in irreps for _ in range(mul)]
    return np.repeat(np.arange(len(dims)), dims)


class Conv(nn.Module):
    """A steerable convolution, with zeros outside the grid; scalars can have a bias.

    Its weights `[n_basis, mul_in, mul_out]` for all pairs of irreps, one after the other, are one parameter: few large
    arrays compile and update faster than many small ones. They start such that variance 1 becomes `gain`^2.
    """

    irreps_out: e3nn.Irreps
    harmonics: e3nn.Irreps
    size: int
    bias: bool = False
    gain: float = 1.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        irreps_out, harmonics = e3nn.Irreps(self.irreps_out), e3nn.Irreps(self.harmonics)  # flax made them tuples
        pairs = [(a, b) for a in x.irreps for b in irreps_out]
        bases = [kernel_basis(a.ir, b.ir, self.size, harmonics) for a, b in pairs]
        shapes = [(len(basis), a.mul, b.mul) for basis, (a, b) in zip(bases, pairs, strict=True)]
        weights = self.param("weights", self._init, shapes)
        parts = jnp.split(weights, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        blocks = [
            jnp.einsum("kxyzio,kuv->xyzuivo", basis.astype(weights.dtype), w.reshape(shape), precision="highest")
            for basis, w, shape in zip(bases, parts, shapes, strict=True)
        ]
        blocks = [k.reshape(*k.shape[:3], a.dim, b.dim) for k, (a, b) in zip(blocks, pairs, strict=True)]
        n = len(irreps_out)
        rows = [jnp.concatenate(blocks[i : i + n], axis=-1) for i in range(0, len(blocks), n)]
        array, kernel = nn.dtypes.promote_dtype(x.array, jnp.concatenate(rows, axis=-2), dtype=self.dtype)
        y = conv3d(array, kernel)
        if self.bias:
            y = y + self.param("bias", nn.initializers.zeros, (irreps_out.dim,), self.param_dtype).astype(y.dtype)
        return e3nn.IrrepsArray(irreps_out, y)

    def _init(self, key: Array, shapes: list[tuple[int, int, int]]) -> Array:
        n = len(self.irreps_out)
        fan_in = [sum(n_basis * mul for n_basis, mul, _ in shapes[i::n]) for i in range(n)]
        std = jnp.concatenate([jnp.full(math.prod(shape), fan_in[i % n] ** -0.5) for i, shape in enumerate(shapes)])
        return (self.gain * std * jax.random.normal(key, std.shape)).astype(self.param_dtype)


class Norm(nn.Module):
    """Instance normalisation: over the voxels scalars get mean 0, and all irreps mean square 1 of their components.

    Each irrep then has a scale, each scalar a bias. Statistics are in float32 or better.
    """

    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray) -> e3nn.IrrepsArray:
        irreps, n_scalars = x.irreps, x.irreps.count("0e")
        scale = self.param("scale", nn.initializers.ones, (irreps.num_irreps,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (n_scalars,), self.param_dtype)
        array, scale, bias = nn.dtypes.promote_dtype(x.array, scale, bias, dtype=self.dtype)
        y = array.astype(jnp.promote_types(array.dtype, jnp.float32))
        is_scalar = np.arange(irreps.dim) < n_scalars
        mean = jnp.mean(y, axis=(1, 2, 3), keepdims=True) * is_scalar
        squares = jnp.mean(jnp.square(y - mean), axis=(1, 2, 3), keepdims=True)
        squares = [jnp.mean(chunk, axis=-1) for chunk in e3nn.IrrepsArray(irreps, squares).chunks]
        scale = (scale * lax.rsqrt(jnp.concatenate(squares, axis=-1) + 1e-5))[..., _owner(irreps)]
        shift = jnp.pad(bias, (0, irreps.dim - n_scalars)) - mean * scale
        return e3nn.IrrepsArray(irreps, (y * scale + shift).astype(array.dtype))


class Gate(nn.Module):
    """SiLU of the scalars, but for the last, whose sigmoids multiply the other irreps; e3nn's `gate`, with dropout.

    Dropout is of whole irreps, voxel by voxel.
    """

    dropout: float

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray, train: bool) -> e3nn.IrrepsArray:
        scalars, gated = x.irreps[0], e3nn.Irreps(x.irreps[1:])
        n_kept = scalars.mul - gated.num_irreps
        kept, gates, rest = jnp.split(x.array, (n_kept, scalars.mul), axis=-1)
        factors = jnp.concatenate([nn.silu(kept), nn.sigmoid(gates)], axis=-1)
        factors = nn.Dropout(self.dropout, deterministic=not train)(factors)
        kept, gates = jnp.split(factors, (n_kept,), axis=-1)
        array = jnp.concatenate([kept, gates[..., _owner(gated)] * rest], axis=-1)
        return e3nn.IrrepsArray(e3nn.Irreps([(n_kept, scalars.ir), *gated]), array)


class Block(nn.Module):
    """Twice convolution, norm and gate."""

    irreps_out: e3nn.Irreps
    harmonics: e3nn.Irreps
    size: int
    dropout: float
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: e3nn.IrrepsArray, train: bool) -> e3nn.IrrepsArray:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        (n_scalars, scalar), *gated = e3nn.Irreps(self.irreps_out)
        irreps = e3nn.Irreps([(n_scalars + sum(mul for mul, _ in gated), scalar), *gated])
        for i in (1, 2):
            x = Conv(irreps, self.harmonics, self.size, **types, name=f"conv{i}")(x)
            x = Norm(**types, name=f"norm{i}")(x)
            x = Gate(self.dropout, name=f"gate{i}")(x, train)
        return x


class SteerableUNet(nn.Module):
    """A steerable U-Net: `[batch, n_elements, l, l, l]` densities to the same, `l` divisible by 2^(n_levels - 1).

    `init` and `apply` raise ValueError on inputs and fields that do not fit. Dropout needs the rng "dropout" when
    `train` is true. The fields of the coarsest level, `[batch, c, l', l', l']` of irreps `irreps(n_levels - 1)`, are
    sown into the collection "intermediates" as "latent". The output is in float32 or better.

    Attributes:
      n_elements: input and output channels, all scalars.
      multiplicities: of the irreps of degree 0, 1, 2, ... at the first level, twice as many at each level below. The
        harmonics in the kernels go up to the same degree.
      n_levels: number of grids, each with half the side of that above.
      kernel_size: side of the kernels, 3 or 5.
      parity: False is symmetry under SE(3), as published. True is under E(3): fields of odd degree change sign when
        space is inverted, and a molecule and its mirror image are treated alike.
      dropout: rate after each gate.
      dtype: of the computation but for the head; by default that of the input and the parameters together.
      param_dtype: of the parameters.
      remat: recompute each block in the backward pass instead of storing what is inside it.
    """

    n_elements: int
    multiplicities: tuple[int, ...] = (11, 5, 2)
    n_levels: int = 4
    kernel_size: int = 5
    parity: bool = False
    dropout: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        self._check(x)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        harmonics = e3nn.Irreps.spherical_harmonics(len(self.multiplicities) - 1, -1 if self.parity else 1)
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        def block(h: e3nn.IrrepsArray, level: int, name: str) -> e3nn.IrrepsArray:
            layer = block_type(self.irreps(level), harmonics, self.kernel_size, self.dropout, **types, name=name)
            return layer(h, train)

        densities = e3nn.Irreps(f"{self.n_elements}x0e")
        h = block(e3nn.IrrepsArray(densities, jnp.moveaxis(x, 1, -1)), 0, "down_0")
        skips = []
        for level in range(1, self.n_levels):
            skips.append(h)
            h = block(e3nn.IrrepsArray(h.irreps, pool(h.array)), level, f"down_{level}")
        self.sow("intermediates", "latent", jnp.moveaxis(h.array, -1, 1))
        for level in reversed(range(self.n_levels - 1)):
            h = e3nn.IrrepsArray(h.irreps, upsample(h.array))
            h = block(e3nn.concatenate([h, skips.pop()]).regroup(), level, f"up_{level}")
        types["dtype"] = jnp.promote_types(h.dtype, jnp.float32)
        # Densities are about this large, most voxels being empty; from predictions of order 1 it learns much later.
        h = Conv(densities, harmonics, self.kernel_size, bias=True, gain=0.03, **types, name="head")(h)
        return jnp.moveaxis(h.array, -1, 1)

    def irreps(self, level: int) -> e3nn.Irreps:
        """Of the fields of a level, counted from the finest grid, ordered by degree."""
        sign = -1 if self.parity else 1
        return e3nn.Irreps([(m * 2**level, (degree, sign**degree)) for degree, m in enumerate(self.multiplicities)])

    def action(self, level: int) -> actions.Action:
        """How a rotation of the cube turns the fields of a level, `[c, l, l, l]`: its grid and its irreps."""
        of_components = actions.irreps(str(self.irreps(level)))

        def act(g, z):
            return jnp.moveaxis(of_components(g, jnp.moveaxis(actions.grid(g, z), -4, -1)), -1, -4)

        return act

    def _check(self, x: Array) -> None:
        if self.kernel_size not in (3, 5):
            raise ValueError(f"kernel_size {self.kernel_size} must be 3 or 5")
        if not self.multiplicities or min(self.multiplicities) < 1:
            raise ValueError(f"multiplicities {self.multiplicities} must be positive, one for each degree from 0 on")
        if x.ndim != 5 or len(set(x.shape[2:])) != 1:
            raise ValueError(f"expected a cubic grid [batch, n_elements, l, l, l], got {x.shape}")
        if x.shape[1] != self.n_elements:
            raise ValueError(f"the model has n_elements {self.n_elements}, got {x.shape[1]} in {x.shape}")
        side, factor = x.shape[2], 2 ** (self.n_levels - 1)
        if side % factor:
            raise ValueError(
                f"a grid of side {side} cannot be halved {self.n_levels - 1} times: use a multiple of {factor}, for "
                f"instance {factor * math.ceil(side / factor)}"
            )
