"""A plain transformer on coordinates, and a task to train it on: what the operator's benchmarks run."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import equiscale as es
from equiscale.data import nci
from equiscale.data.voxels import centre


class CoordinateTransformer(nn.Module):
    """Coordinates and species to one vector per atom; nothing in it knows of rotations."""

    width: int = 128
    heads: int = 4
    layers: int = 4

    @nn.compact
    def __call__(self, positions, species):
        real = species > 0
        h = nn.Dense(self.width)(positions) + nn.Embed(64, self.width)(species)
        mask = (real[:, None, :] & real[:, :, None])[:, None]
        for _ in range(self.layers):
            a = nn.LayerNorm()(h)
            h = h + nn.MultiHeadDotProductAttention(self.heads)(a, mask=mask)
            h = h + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(h))))
        return nn.Dense(3)(nn.LayerNorm()(h)) * real[..., None]


def molecules(n: int, max_heavy_atoms: int = 16):
    """Centred positions `[n, atoms, 3]` (angstrom) and species of real compounds."""
    found, _ = nci.load(("C", "H", "O", "N", "F", "S", "Cl", "Br"), max_heavy_atoms=max_heavy_atoms, limit=n)
    species = jnp.asarray(found.species)
    return centre(jnp.asarray(found.positions), species), species


def train_denoiser(model, positions, species, *, sigma=0.3, steps=1_500, batch=32):
    """Predict the noise added to randomly rotated molecules; returns parameters and the last losses' mean."""

    def loss(params, key):
        pick, turn, noise = jax.random.split(key, 3)
        rows = jax.random.choice(pick, len(positions), (batch,))
        g = jax.vmap(es.so3.random)(jax.random.split(turn, batch))
        eps = jax.random.normal(noise, (batch, *positions.shape[1:])) * (species[rows] > 0)[..., None]
        x = jnp.einsum("bij,baj->bai", g, positions[rows])
        return jnp.square(model.apply(params, x + sigma * eps, species[rows]) - eps).mean()

    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(carry, key):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    params = jax.jit(model.init)(jax.random.key(0), positions[:1], species[:1])
    carry, losses = (params, optimizer.init(params)), []
    for key in jax.random.split(jax.random.key(1), steps):
        carry, value = step(carry, key)
        losses.append(value)
    return carry[0], float(np.mean(jnp.stack(losses[-100:])))
