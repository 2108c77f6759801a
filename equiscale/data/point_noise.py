"""Gaussian noise on atoms and residues that does not depend on how they are batched."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from equiscale.data.voxels import centre


def noise(
    key: PRNGKeyArray, ids: Int[Array, " n"], real: Bool[Array, "n atoms"], *, centred: bool
) -> Float[Array, "n atoms 3"]:
    """Standard normal on real atoms, without its mean over them where `centred`; 0 on padding.

    An atom's noise is drawn by its molecule's id and its own place: the same in any batch, however padded.
    """

    def of_molecule(i):
        keys = jax.vmap(lambda a: jax.random.fold_in(jax.random.fold_in(key, i), a))(jnp.arange(real.shape[1]))
        return jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)

    eps = jnp.where(real[..., None], jax.vmap(of_molecule)(ids), 0)
    return centre(eps, real) if centred else eps
