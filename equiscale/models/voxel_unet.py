"""The VoxMol U-Net, a convolutional denoiser of voxelised molecules (arXiv 2306.07473).

Nothing in it is equivariant: its symmetry is learned from rotated data. One obstacle is structural. On an even
grid the published downsampler, of side 3, reads voxels 0, 2, 4, ..., which a flip about the grid's centre maps
to the odd ones, so that no kernel lets it commute with the cube's rotations. `downsample="symmetric"`, of side
4, commutes with them when its kernel does.
"""

import itertools
import math
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from equiscale.models.conv3d import conv3d, conv3d_transpose

_PUBLISHED = {"channel_multipliers": (1, 2, 2, 4), "attention_levels": (False, False, True, True)}
# Densities are small, most voxels being empty. From predictions of order 1 small models first learn to predict nothing,
# and little more in minutes: with a small head the loss of 0.3M after 300 steps is a quarter.
_FEW_STEPS = {"dropout": 0.0, "head_gain": 0.1}
_CPU = {"channel_multipliers": (1, 2, 1), "attention_levels": (False, False, True), **_FEW_STEPS}
_SHALLOW = {"channel_multipliers": (1, 2), "attention_levels": (False, True), "n_blocks": 1, **_FEW_STEPS}  # for tests

# Fields of `VoxelUNet` besides `n_elements`. The published models have 7.0, 27.9 and 111.5 million parameters. Those
# for CPUs are for grids of side 16 to 24, where attention is cheap at a quarter of the side only, and for short runs,
# so without dropout; they are named by their number of parameters.
PRESETS = {
    "cpu_0.02M": {"n_channels": 4, "n_groups": 4, **_SHALLOW},
    "cpu_0.06M": {"n_channels": 4, "n_groups": 4, **_CPU},
    "cpu_0.3M": {"n_channels": 8, "n_groups": 8, **_CPU},
    "cpu_1M": {"n_channels": 16, "n_groups": 8, **_CPU},
    "tiny": {"n_channels": 8, "n_groups": 8, **_PUBLISHED},
    "small": {"n_channels": 16, "n_groups": 16, **_PUBLISHED},
    "full": {"n_channels": 32, "n_groups": 16, **_PUBLISHED},
}

# Recomputed in the backward pass: on CPU storing costs more than the exponential.
_silu = jax.checkpoint(nn.silu)


def _uniform(key: Array, shape: tuple[int, ...], dtype: Dtype, fan_in: int, gain: float = 1.0) -> Array:
    """`gain` times PyTorch's default for kernels and biases, which is uniform in +-1/sqrt(fan_in).

    The number of draws is rounded up to a power of 2, so that a model needs few different ones: XLA compiles each for
    a fifth of a second, and a U-Net has dozens of shapes.
    """
    size, bound = math.prod(shape), gain / math.sqrt(fan_in)
    draws = jax.random.uniform(key, (1 << (size - 1).bit_length(),), dtype, -bound, bound)
    return draws[:size].reshape(shape)


def _kernel_init(key: Array, shape: tuple[int, ...], dtype: Dtype, gain: float = 1.0) -> Array:
    return _uniform(key, shape, dtype, math.prod(shape[:-1]), gain)


def _bias_init(fan_in: int, gain: float = 1.0) -> nn.initializers.Initializer:
    return partial(_uniform, fan_in=fan_in, gain=gain)


class Conv(nn.Module):
    """A convolution with bias; stride `"up"` is the transposed one that doubles the grid.

    Kernel and bias start at `gain` times PyTorch's default.
    """

    features: int
    size: int = 3
    stride: Literal[1, 2, "up"] = 1
    gain: float = 1.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _kernel_init, shape, self.param_dtype, self.gain)
        bias = self.param("bias", _bias_init(math.prod(shape[:4]), self.gain), shape[4:], self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.stride == "up":
            return conv3d_transpose(x, kernel) + bias
        return conv3d(x, kernel, stride=self.stride) + bias


class GroupNorm(nn.Module):
    """Group normalisation with PyTorch's epsilon, its statistics in float32 or better.

    Voxels are averaged before channels are joined to groups; averaging over a split channel axis, as
    `nn.GroupNorm` does, takes two to four times longer on CPU.
    """

    n_groups: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        x, scale, bias = nn.dtypes.promote_dtype(x, scale, bias, dtype=self.dtype)
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))

        def group_mean(a: Array) -> Array:
            means = jnp.mean(a, axis=(1, 2, 3), keepdims=True)
            groups = means.reshape(*means.shape[:4], self.n_groups, -1)
            groups = jnp.broadcast_to(jnp.mean(groups, -1, keepdims=True), groups.shape)
            return groups.reshape(means.shape)

        mean = group_mean(y)
        variance = jnp.maximum(group_mean(jnp.square(y)) - jnp.square(mean), 0)
        scale = scale * jax.lax.rsqrt(variance + 1e-5)
        return (y * scale + (bias - mean * scale)).astype(x.dtype)


class ResBlock(nn.Module):
    """Twice GroupNorm, SiLU and convolution, with dropout before the second convolution; plus a shortcut."""

    features: int
    n_groups: int
    dropout: float
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = _silu(GroupNorm(self.n_groups, **types, name="norm1")(x))
        h = Conv(self.features, **types, name="conv1")(h)
        h = _silu(GroupNorm(self.n_groups, **types, name="norm2")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = Conv(self.features, **types, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, **types, name="shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Single-head self-attention among all voxels, without norm or positions; plus its input."""

    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = {"kernel_init": _kernel_init, "bias_init": _bias_init(channels)}
        tokens = x.reshape(x.shape[0], -1, channels)
        qkv = nn.Dense(3 * channels, **init, **types, name="projection")(tokens)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        # Softmax in float32 or better, its normalisation after the product with v: on CPU up to twice as fast as
        # `jax.nn.dot_product_attention`.
        precise = jnp.promote_types(q.dtype, jnp.float32)
        scores = jnp.einsum("bqc,bkc->bqk", q / math.sqrt(channels), k).astype(precise)
        largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.exp(scores - largest)
        y = jnp.einsum("bqk,bkc->bqc", weights.astype(v.dtype), v)
        y = (y / jnp.sum(weights, axis=-1, keepdims=True)).astype(v.dtype)
        return x + nn.Dense(channels, **init, **types, name="output")(y).reshape(x.shape)


class Block(nn.Module):
    """A residual block, followed by attention at the levels that have it."""

    features: int
    n_groups: int
    dropout: float
    attention: bool
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ResBlock(self.features, self.n_groups, self.dropout, **types, name="res")(x, train)
        return Attention(**types, name="attention")(x) if self.attention else x


class VoxelUNet(nn.Module):
    """The VoxMol U-Net: `[batch, n_elements, l, l, l]` densities to the same, `l` divisible by 2^(levels - 1).

    `init` and `apply` raise ValueError on inputs and fields that do not fit. Dropout needs the rng "dropout" when
    `train` is true. The latent after the middle block, `[batch, c, l', l', l']`, is sown into the collection
    "intermediates" as "latent". Modules are numbered as in the published code, `down_0` ... and `up_0` ....

    Attributes:
      n_elements: input and output channels.
      n_channels: width of the first level.
      n_groups: groups of the normalisations, a divisor of the width of every level.
      channel_multipliers: width of each level over that of the level above, so cumulative.
      attention_levels: whether the blocks of each level attend; the middle block always does.
      n_blocks: blocks a level on the way down; one more on the way up.
      dropout: rate in the residual blocks.
      downsample: "published" (side 3) or "symmetric" (side 4, see the module's docstring).
      head_gain: of the last convolution's initial parameters over PyTorch's default, the published start. A smaller one
        starts from smaller predictions.
      dtype: of the computation; by default that of the input and the parameters together.
      param_dtype: of the parameters.
      remat: recompute each block in the backward pass instead of storing what is inside it.
    """

    n_elements: int
    n_channels: int = 32
    n_groups: int = 16
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    attention_levels: tuple[bool, ...] = (False, False, True, True)
    n_blocks: int = 2
    dropout: float = 0.1
    downsample: Literal["published", "symmetric"] = "published"
    head_gain: float = 1.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        widths = self._widths()
        self._check_input(x)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        down = (f"down_{i}" for i in itertools.count())
        up = (f"up_{i}" for i in itertools.count())

        def block(h: Array, width: int, attention: bool, name: str) -> Array:
            layer = block_type(width, self.n_groups, self.dropout, attention, **types, name=name)
            return layer(h, train)

        h = Conv(widths[0], **types, name="stem")(jnp.moveaxis(x, 1, -1))
        skips = [h]
        size = {"published": 3, "symmetric": 4}[self.downsample]
        for level, width in enumerate(widths):
            for _ in range(self.n_blocks):
                h = block(h, width, self.attention_levels[level], next(down))
                skips.append(h)
            if level < len(widths) - 1:
                h = Conv(width, size, stride=2, **types, name=next(down))(h)
                skips.append(h)

        h = block(h, widths[-1], True, "middle_1")
        h = block(h, widths[-1], False, "middle_2")
        self.sow("intermediates", "latent", jnp.moveaxis(h, -1, 1))

        for level in reversed(range(len(widths))):
            # The last block takes the skip of the downsampler above, and already has the width above.
            above = widths[max(level - 1, 0)]
            for width in (widths[level],) * self.n_blocks + (above,):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, width, self.attention_levels[level], next(up))
            if level > 0:
                h = Conv(above, size=4, stride="up", **types, name=next(up))(h)

        h = _silu(GroupNorm(self.n_groups, **types, name="norm")(h))
        return jnp.moveaxis(Conv(self.n_elements, gain=self.head_gain, **types, name="head")(h), -1, 1)

    def _widths(self) -> list[int]:
        """Channels of each level, once the fields fit together."""
        if len(self.attention_levels) != len(self.channel_multipliers):
            raise ValueError(
                f"attention_levels {self.attention_levels} and channel_multipliers "
                f"{self.channel_multipliers} must have one entry for each level"
            )
        if self.downsample not in ("published", "symmetric"):
            raise ValueError(f'downsample must be "published" or "symmetric", got {self.downsample!r}')
        multipliers = itertools.accumulate(self.channel_multipliers, lambda a, b: a * b)
        widths = [self.n_channels * m for m in multipliers]
        for level, width in enumerate(widths):
            if width % self.n_groups:
                raise ValueError(
                    f"n_groups {self.n_groups} does not divide the {width} channels of level {level}: choose a "
                    f"divisor of n_channels {self.n_channels}, for instance "
                    f"{math.gcd(self.n_groups, self.n_channels)}"
                )
        return widths

    def _check_input(self, x: Array) -> None:
        if x.ndim != 5 or len(set(x.shape[2:])) != 1:
            raise ValueError(f"expected a cubic grid [batch, n_elements, l, l, l], got {x.shape}")
        if x.shape[1] != self.n_elements:
            raise ValueError(f"the model has n_elements {self.n_elements}, got {x.shape[1]} in {x.shape}")
        side, factor = x.shape[2], 2 ** (len(self.channel_multipliers) - 1)
        if side % factor:
            raise ValueError(
                f"a grid of side {side} cannot be halved {len(self.channel_multipliers) - 1} times: use a "
                f"multiple of {factor}, for instance {factor * math.ceil(side / factor)}"
            )
