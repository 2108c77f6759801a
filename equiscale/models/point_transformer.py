"""A plain transformer over the atoms of a molecule: positions in, positions (or one vector an atom) out.

Atoms are tokens: an embedding of the element plus a linear map of the absolute coordinates, then pre-norm blocks of
attention and MLP. Nothing in it is equivariant to rotations, reflections or translations; there is no order of atoms
in it, so permuting them permutes its output. The counterpart without voxels of `VoxelUNet`.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

# Fields of `PointTransformer` besides `n_elements`, named by the number of parameters as those of `VoxelUNet` are; the
# published U-Nets have 7.0, 27.9 and 111.5 million.
PRESETS = {
    "cpu_0.02M": {"width": 25, "heads": 5, "layers": 3},
    "cpu_0.06M": {"width": 40, "heads": 4, "layers": 3},
    "cpu_0.3M": {"width": 64, "heads": 4, "layers": 5},
    "cpu_1M": {"width": 128, "heads": 8, "layers": 5},
    "7M": {"width": 256, "heads": 8, "layers": 9},
    "28M": {"width": 512, "heads": 16, "layers": 9},
    "111M": {"width": 768, "heads": 16, "layers": 16},
}


class Block(nn.Module):
    """Attention among real atoms, then an MLP four times as wide; each on normalised features, each added."""

    heads: int
    dropout: float
    dtype: Dtype | None
    param_dtype: Dtype

    @nn.compact
    def __call__(self, h: Float[Array, "n atoms width"], mask: Array, still: bool) -> Float[Array, "n atoms width"]:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = h.shape[-1]
        a = nn.LayerNorm(**kinds, name="attention_norm")(h)
        attention = nn.MultiHeadDotProductAttention(self.heads, **kinds, force_fp32_for_softmax=True, name="attention")
        h = h + nn.Dropout(self.dropout, deterministic=still)(attention(a, mask=mask))
        a = nn.LayerNorm(**kinds, name="mlp_norm")(h)
        a = nn.Dense(width, **kinds, name="mlp_out")(nn.gelu(nn.Dense(4 * width, **kinds, name="mlp_in")(a)))
        return h + nn.Dropout(self.dropout, deterministic=still)(a)


class PointTransformer(nn.Module):
    """Positions `[n, atoms, 3]` and elements `[n, atoms]` (1 to `n_elements`, 0 for padding) to `[n, atoms, 3]`.

    Padding may stand anywhere and hold any position; it changes nothing of the real atoms and comes out as 0.
    `dtype` is that of the computation; the last layer is computed and returned in float32 or better, since bfloat16
    tells apart no coordinates of 0.01 angstrom. `remat` recomputes blocks in the backward pass.

    Raises ValueError for arrays of other shapes and for heads that do not divide the width.
    """

    n_elements: int
    width: int
    heads: int
    layers: int
    dropout: float = 0.0
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, positions: Float[Array, "n atoms 3"], elements: Int[Array, "n atoms"], *, train: bool = False
    ) -> Float[Array, "n atoms 3"]:
        if elements.ndim != 2 or positions.shape != (*elements.shape, 3):
            raise ValueError(
                f"expected positions [n, atoms, 3] and elements [n, atoms], got {list(positions.shape)} and "
                f"{list(elements.shape)}"
            )
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} do not divide the width {self.width}: use a divisor of it")
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        real = elements > 0
        positions = jnp.where(real[..., None], positions, 0)
        h = nn.Dense(self.width, **kinds, name="positions")(positions)
        h = h + nn.Embed(self.n_elements, self.width, **kinds, name="elements")(jnp.maximum(elements - 1, 0))
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for i in range(self.layers):
            h = block(self.heads, self.dropout, **kinds, name=f"block_{i}")(h, real[:, None, None, :], not train)
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        kinds["dtype"] = h.dtype
        out = nn.Dense(3, **kinds, name="head")(nn.LayerNorm(**kinds, name="head_norm")(h))
        return jnp.where(real[..., None], out, 0)
