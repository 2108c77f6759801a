"""What is measured of one checkpoint's latents: cosines, fitted representations, probes, the Lie derivative.

Latents come as arrays of each molecule turned by each rotation of `CUBE`; records go out, plain numbers for a file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import equiscale as es
from equiscale import rotations
from equiscale.actions import Action
from equiscale.capture import capture
from equiscale.data.voxels import Grid, voxelise
from equiscale.latents import fit_representation, homomorphism_defect, latent_cosines, probe, rotations_by_axis
from equiscale.lie import LieDerivative, lie_derivative
from equiscale.tasks.molecule_sets import Structures

AXIS_TURNS = rotations_by_axis()  # 90, 180 and 270 degrees about x, y and z
HETERO = (7, 8)  # N and O

Encoder = Callable[[Any, Float[Array, "n channels l l l"]], Float[Array, "n c k k k"]]  # of parameters and grids


def _cube_axis_turns_first() -> Float[np.ndarray, "24 3 3"]:
    """The cube's rotations: identity, `AXIS_TURNS` in their order, the other 14."""
    first = [np.eye(3), *AXIS_TURNS.values()]
    return np.array(first + [g for g in rotations.cube() if not any((np.abs(g - h) < 0.5).all() for h in first)])


CUBE = _cube_axis_turns_first()
# Orientations that fits start from and probes see: all 24 say little more of each molecule for thrice the time.
FITTED = np.arange(0, 24, 3)


def _position(g: Float[np.ndarray, "3 3"]) -> int:
    """Of a rotation in `CUBE`."""
    return int(np.flatnonzero((np.abs(CUBE - g) < 0.5).all((1, 2)))[0])


# --- encoding --------------------------------------------------------------------------------------------------


def make_encoder(predict: Callable, latent: str) -> Encoder:
    """`phi(params, x)`: the intermediate called `latent` of `predict(params, x)`, channels first.

    The U-Net computes channels last, so of the two a latent with all its axes equal is taken for that.

    Calling it raises what `capture` raises, and ValueError for a latent that is no cubic grid.
    """
    captured = capture(predict, latent)

    def phi(params, x):
        z = captured(params, x)
        if z.ndim == 5 and z.shape[1] == z.shape[2] == z.shape[3] > 1:
            return jnp.moveaxis(z, -1, 1)
        if z.ndim == 5 and z.shape[2] == z.shape[3] == z.shape[4] > 1:
            return z
        raise ValueError(
            f"the latent {latent!r} has shape {list(z.shape)}, which is no grid [batch, c, l, l, l] or "
            "[batch, l, l, l, c]: choose another, such as a whole block, */middle_2"
        )

    return phi


def encode_turned(
    phi: Callable, params: Any, grids: Sequence[Array], n: int, turns: Float[np.ndarray, "turns 3 3"]
) -> Float[np.ndarray, "n turns c l l l"]:
    """phi(g x) of n noisy grids, given in batches, for each of some rotations; `phi(params, g, x)` is jitted."""
    by_turn = [np.concatenate([jax.device_get(phi(params, g, x)) for x in grids])[:n] for g in turns]
    return np.stack(by_turn, axis=1)


# --- cosines, fits and probes ----------------------------------------------------------------------------------


def cosines(z: Float[np.ndarray, "n turns c l l l"], key: PRNGKeyArray, act_latent: Action = es.grid) -> dict[str, Any]:
    """Records of the spatial equivariance and of the paper's cosine, from latents of x turned by CUBE[:turns].

    Equivariance: cos(g phi(x), phi(g x)), the latent turned by `act_latent`. Invariance: cos(pool phi(x), pool
    phi(g x)), the published sim_same, in which "rotating the latent vector" does nothing since pooling left nothing to
    turn.
    """
    elements = {name: (i, AXIS_TURNS[name]) for i, name in enumerate(AXIS_TURNS, start=1)}
    axis_turns = z[:, : len(elements) + 1]

    def measure(**settings):
        return latent_cosines(
            lambda z: z[:, 0], lambda g, z: z[g[0]][None], axis_turns, elements, key=key, **settings
        ).record(key)

    return {
        "equivariance": measure(act_latent=lambda g, z: act_latent(g[1], z)),
        "invariance": measure(pool=True),
    }


def representations(z: Float[np.ndarray, "n 24 ..."], key: PRNGKeyArray) -> dict[str, Any]:
    """Is there a linear rho(g) with phi(g h x) = rho(g) phi(h x), for the h of `FITTED`, and does it multiply?

    Errors are relative to the variance over held-out molecules, beside those of the identity. The homomorphism
    defect is on molecules that no fit has seen: every fifth.
    """
    n = len(z)
    unseen = np.arange(n) % 5 == 4
    seen = z[~unseen]
    molecules = np.repeat(np.arange(len(seen)), len(FITTED))
    x, y = AXIS_TURNS["x 90°"], AXIS_TURNS["y 90°"]
    elements = {"x 90°": x, "y 90°": y, "z 90°": AXIS_TURNS["z 90°"], "x 180°": x @ x, "x 90° y 90°": x @ y}

    def rows(z):
        return z.reshape(z.shape[0] * z.shape[1], -1)

    fits = {}
    for name, g in elements.items():
        turned = seen[:, [_position(g @ h) for h in CUBE[FITTED]]]
        fits[name] = fit_representation(rows(seen[:, FITTED]), rows(turned), key=key, molecules=molecules)
    defects = {
        "x 90° twice": homomorphism_defect(fits["x 90°"], fits["x 90°"], fits["x 180°"], rows(z[unseen])),
        "x 90° y 90°": homomorphism_defect(fits["x 90°"], fits["y 90°"], fits["x 90° y 90°"], rows(z[unseen])),
    }
    return {
        "fits": {name: fit.record() for name, fit in fits.items()},
        "homomorphism_defect": defects,
        "n_features": int(fits["x 90°"].centre.size),
    }


def probe_targets(data: Structures) -> dict[str, Float[np.ndarray, "n 24 d"]]:
    """What a linear probe is asked of each molecule turned by each of `CUBE`: three that stay, two that turn.

    Heavy atoms, N and O atoms, the radius of gyration of all atoms in angstrom; the vector from the centroid to the
    mean of N and O in angstrom (0 without any); the traceless second moments of the atoms in angstrom squared, of
    which the principal axes are a function: xx, yy, zz, xy, xz, yz.
    """
    species, positions = np.asarray(data.species), np.asarray(data.positions, np.float64)
    real, hetero = species > 0, np.isin(species, HETERO)

    def mean(of, values):
        of = of.reshape(of.shape + (1,) * (values.ndim - 2))
        return (of * values).sum(1) / np.maximum(of.sum(1), 1)

    moments = mean(real, positions[..., :, None] * positions[..., None, :])
    square_radius = np.trace(moments, axis1=1, axis2=2)
    traceless = moments - square_radius[:, None, None] * np.eye(3) / 3
    turned = np.einsum("gij,njk,glk->ngil", CUBE, traceless, CUBE)

    def same(values):
        return np.repeat(np.asarray(values, float)[:, None, None], len(CUBE), axis=1)

    return {
        "heavy atoms": same((species > 1).sum(1)),
        "N and O atoms": same(hetero.sum(1)),
        "radius of gyration": same(np.sqrt(square_radius)),
        "vector to N and O": np.einsum("gij,nj->ngi", CUBE, mean(hetero, positions)),
        "second moments": turned[..., [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]],
    }


def probes(z: Float[np.ndarray, "n 24 ..."], targets: Mapping[str, np.ndarray], key: PRNGKeyArray) -> dict[str, Any]:
    """R² of each target from the latents on held-out molecules, over all its components together."""
    molecules = np.repeat(np.arange(len(z)), len(FITTED))
    z = z[:, FITTED].reshape(len(molecules), -1)
    found = {}
    for name, y in targets.items():
        if (y.std((0, 1)) > 0).all():  # a small choice of molecules may all have as many heavy atoms
            y = y[:, FITTED].reshape(len(molecules), -1)
            fit = probe(z, y, key=key, molecules=molecules)
            found[name] = {"r2": 1 - fit.error, "r2_stderr": fit.error_stderr, "components": fit.r2.tolist()}
    return found


def coarse(z: Float[np.ndarray, "n turns c l l l"]) -> Float[np.ndarray, "n turns c k k k"]:
    """Averaged to the fewest cells along an axis that divide it (octants where it is even): this turns as z does."""
    *lead, side = z.shape
    k = next(k for k in range(2, side + 1) if side % k == 0)
    cells = z.reshape(*lead[:-2], *(k, side // k) * 3)
    return cells.mean((-5, -3, -1))


# --- Lie derivative --------------------------------------------------------------------------------------------


def pooled_motion(phi: Encoder, grid: Grid, params: Any, data: Structures) -> tuple[LieDerivative, Array]:
    """Lie derivative under rotations of coordinates -> clean density -> phi -> mean over voxels, and its values.

    There is no action of small rotations on grids, so the derivative is of the whole; it vanishes for a latent whose
    mean is invariant. It is a sum over the three axes.
    """

    def pooled(positions):
        density = jax.vmap(lambda r, z: voxelise(r, z, grid, mode="forward"))(positions, data.species)
        return phi(params, density).mean((-3, -2, -1))

    symmetry = es.Symmetry(measure=es.so3.haar(1), act_in=es.vectors, act_out=es.trivial)
    return lie_derivative(pooled, symmetry, data.positions, weight=data.weight), pooled(data.positions)


def motion_record(lie: LieDerivative, values: Float[np.ndarray, "n c"]) -> dict[str, Any]:
    """The derivative's record, with `spread` and `rate`, of pooled latents and their Lie derivative.

    `spread` is the standard deviation of the latents over molecules, `rate` the root mean square derivative over it:
    the change per radian, over all three axes, in units of what distinguishes molecules. Its error is that of the
    derivative alone.
    """
    spread = float(np.sqrt(np.asarray(values, np.float64).var(0).mean()))
    rate = np.sqrt(lie.square.item()) / spread
    stderr = lie.square_stderr.item() / (2 * rate * spread**2)
    return lie.record() | {"spread": spread, "rate": float(rate), "rate_stderr": float(stderr)}
