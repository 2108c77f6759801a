"""Layers of Proteina's transformer: conditioned norms and gates, pair-biased attention, SwiGLU (arXiv 2503.00710).

Conditions come from the flow time (and the fold), which all residues of a chain share, so what is made of them is
computed once a chain: `[batch, 2, c]`, first for the registers, whose condition is zero, then for the residues.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

Tokens = Float[Array, "batch tokens d"]
Conditions = Float[Array, "batch 2 c"]

kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default


class Linear(nn.Module):
    """A linear layer that starts as PyTorch's: weights and biases uniform up to 1 / sqrt(inputs)."""

    features: int
    bias: bool = True
    kernel: Any = kernel_init
    offset: float | None = None  # the bias at the start
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        reach = x.shape[-1] ** -0.5
        drawn = nn.initializers.uniform(2 * reach) if self.offset is None else nn.initializers.constant(self.offset)

        def bias_init(*args):
            return drawn(*args) - (reach if self.offset is None else 0)

        settings = {"use_bias": self.bias, "kernel_init": self.kernel, "bias_init": bias_init, "dtype": self.dtype}
        return nn.Dense(self.features, **settings, name="linear")(x)


def norm(x: Array, name: str | None = None, dtype: Dtype | None = None) -> Array:
    """Layer norm with PyTorch's epsilon; without a name it has no parameters."""
    affine = name is not None
    return nn.LayerNorm(1e-5, use_scale=affine, use_bias=affine, dtype=dtype, name=name)(x)


def by_token(of_kinds: Float[Array, "batch 2 d"], n_registers: int, n_tokens: int) -> Tokens:
    """Rows for registers and for residues, each as often as there are of them."""
    parts = [jnp.repeat(of_kinds[:, :1], n_registers, axis=1)]
    parts.append(jnp.repeat(of_kinds[:, 1:], n_tokens - n_registers, axis=1))
    return jnp.concatenate(parts, axis=1)


class Modulation(nn.Module):
    """A gain between 0 and 1 and an offset that conditions choose, `[..., width]` each."""

    width: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, conditions: Float[Array, "*any c"]) -> tuple[Array, Array]:
        c = norm(conditions, "norm", self.dtype)
        gain = nn.sigmoid(Linear(self.width, dtype=self.dtype, name="gain")(c))
        return gain, Linear(self.width, bias=False, dtype=self.dtype, name="offset")(c)


class AdaptiveNorm(nn.Module):
    """A layer norm without parameters of its own, modulated by conditions."""

    n_registers: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Tokens, conditions: Conditions) -> Tokens:
        modulation = Modulation(x.shape[-1], self.dtype, name="modulation")(conditions)
        gain, offset = (by_token(a, self.n_registers, x.shape[1]) for a in modulation)
        return norm(x, dtype=self.dtype) * gain + offset


class OutGate(nn.Module):
    """What a layer adds, times a gate between 0 and 1 that conditions choose; 0.12 at the start."""

    n_registers: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Tokens, conditions: Conditions) -> Tokens:
        zeros = nn.initializers.zeros
        gate = nn.sigmoid(Linear(x.shape[-1], kernel=zeros, offset=-2.0, dtype=self.dtype, name="gate")(conditions))
        return x * by_token(gate, self.n_registers, x.shape[1])


class SwiGLU(nn.Module):
    """A two-layer network without biases: half of the hidden channels, times the SiLU of the other half."""

    hidden: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        a, g = jnp.split(Linear(2 * self.hidden, bias=False, dtype=self.dtype, name="in")(x), 2, axis=-1)
        return Linear(x.shape[-1], bias=False, dtype=self.dtype, name="out")(a * nn.silu(g))


class PairAttention(nn.Module):
    """Gated attention whose logits have a bias for each pair and head; queries and keys are normed over all heads."""

    n_heads: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: Tokens, bias: Float[Array, "batch h tokens tokens"], mask: Bool[Array, "batch tokens"]
    ) -> Tokens:
        width = x.shape[-1]
        x = norm(x, "norm", self.dtype)
        q, k, v = jnp.split(Linear(3 * width, dtype=self.dtype, name="qkv")(x), 3, axis=-1)
        q, k = norm(q, "query_norm", self.dtype), norm(k, "key_norm", self.dtype)
        q, k, v = (a.reshape(*a.shape[:2], self.n_heads, -1) for a in (q, k, v))
        seen = mask[:, None, None, :]
        out = jax.nn.dot_product_attention(q, k, v, bias=bias.astype(q.dtype), mask=seen).reshape(x.shape)
        gate = nn.sigmoid(Linear(width, dtype=self.dtype, name="gate")(x))
        return Linear(width, dtype=self.dtype, name="out")(gate * out)


class Block(nn.Module):
    """Attention, then a SwiGLU four times as wide, each on conditioned norms and through a conditioned gate."""

    n_heads: int
    n_registers: int
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        conditions: Conditions,
        bias: Float[Array, "batch h tokens tokens"],
        mask: Bool[Array, "batch tokens"],
    ) -> Tokens:
        of = {"n_registers": self.n_registers, "dtype": self.dtype}
        a = AdaptiveNorm(**of, name="attention_norm")(x, conditions)
        a = PairAttention(self.n_heads, self.dtype, name="attention")(a, bias, mask)
        x = x + OutGate(**of, name="attention_gate")(a, conditions)
        a = AdaptiveNorm(**of, name="network_norm")(x, conditions)
        a = SwiGLU(4 * x.shape[-1], self.dtype, name="network")(a)
        return jnp.where(mask[..., None], x + OutGate(**of, name="network_gate")(a, conditions), 0)
