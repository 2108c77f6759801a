"""A head that predicts properties of a molecule from the bottleneck of a voxel U-Net (arXiv 2507.09753).

The mean over voxels goes through three linear layers, between them LayerNorm, shifted softplus and dropout. Vectors are
three more outputs each, which a plain network has to learn to turn. Given the irreps of a steerable latent, the head is
equivariant instead: its layers see scalars and the norms of the other irreps alone, and a vector is a combination of
the latent's vectors with coefficients that they put out.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jax import Array

from equiscale.models import e3nn


def shifted_softplus(x: Array) -> Array:
    """softplus(x) - ln 2, which is 0 at 0 (SchNet)."""
    return jax.nn.softplus(x) - math.log(2)


class PropertyHead(nn.Module):
    """`[batch, c, l, l, l]` to `{"scalars": [batch, n_scalars], "vectors": [batch, n_vectors, 3]}`.

    What there are none of is left out. The output is in float32 or better. Dropout needs the rng "dropout" when `train`
    is true. Raises ValueError for a latent that is no grid or not of these irreps, for vectors from irreps without any,
    and for nothing to predict.

    Attributes:
      n_scalars, n_vectors: how many of each are predicted.
      width: of the two hidden layers.
      dropout: rate after each of them.
      irreps: of the latent's channels in e3nn's notation, ordered by degree as `SteerableUNet` has them; None takes
        channels for what they are, without symmetry.
      param_dtype: of the parameters.
    """

    n_scalars: int
    n_vectors: int = 0
    width: int = 128
    dropout: float = 0.1
    irreps: str | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, latent: Array, *, train: bool = False) -> dict[str, Array]:
        self._check(latent)
        pooled = latent.astype(jnp.promote_types(latent.dtype, jnp.float32)).mean((2, 3, 4))
        h, basis = self._invariants(pooled)
        for i in (1, 2):
            h = nn.Dense(self.width, param_dtype=self.param_dtype, name=f"linear_{i}")(h)
            h = shifted_softplus(nn.LayerNorm(param_dtype=self.param_dtype, name=f"norm_{i}")(h))
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
        n_outputs = self.n_scalars + self.n_vectors * basis.shape[1]
        h = nn.Dense(n_outputs, param_dtype=self.param_dtype, name="linear_3")(h)
        scalars, coefficients = jnp.split(h, [self.n_scalars], axis=-1)
        found = {"scalars": scalars} if self.n_scalars else {}
        if self.n_vectors:
            coefficients = coefficients.reshape(len(h), self.n_vectors, -1)
            found["vectors"] = jnp.einsum("bnk,bki->bni", coefficients, basis, precision="highest")
        return found

    def _invariants(self, pooled: Array) -> tuple[Array, Array]:
        """What the layers see `[batch, k]`, and the vectors that vectors are made of `[batch, m, 3]`."""
        if self.irreps is None:
            return pooled, jnp.broadcast_to(jnp.eye(3, dtype=pooled.dtype), (len(pooled), 3, 3))
        fields = e3nn.IrrepsArray(self.irreps, pooled)
        seen, basis = [], jnp.zeros((len(pooled), 0, 3), pooled.dtype)
        for (_, ir), chunk in zip(fields.irreps, fields.chunks, strict=True):
            # The root mean square; 1e-12 keeps its slope finite at 0.
            seen.append(chunk[..., 0] if ir.l == 0 else jnp.sqrt(jnp.square(chunk).mean(-1) + 1e-12))
            basis = jnp.concatenate([basis, chunk], axis=1) if ir.l == 1 else basis
        return jnp.concatenate(seen, axis=-1), basis

    def _check(self, latent: Array) -> None:
        if self.n_scalars < 0 or self.n_vectors < 0 or self.n_scalars + self.n_vectors == 0:
            raise ValueError(f"{self.n_scalars} scalars and {self.n_vectors} vectors to predict: give at least one")
        if latent.ndim != 5 or len(set(latent.shape[2:])) != 1:
            raise ValueError(f"expected a cubic grid [batch, c, l, l, l], got {latent.shape}")
        if self.irreps is None:
            return
        irreps = e3nn.Irreps(self.irreps)
        if latent.shape[1] != irreps.dim:
            raise ValueError(f"irreps {irreps} have {irreps.dim} channels, got {latent.shape[1]} in {latent.shape}")
        if self.n_vectors and not any(ir.l == 1 for _, ir in irreps):
            raise ValueError(f"irreps {irreps} hold no vectors to make {self.n_vectors} of: give multiplicities[1]")
