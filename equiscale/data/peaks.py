"""From densities back to atoms, the inverse of `equiscale.data.voxels`: VoxMol (arXiv 2306.07473).

As the published sampler does: each local maximum of a channel above a threshold is an atom of its element, the atoms'
positions are fitted until their density is nearest the given one in squared error, and of two atoms that come too near
each other the weaker goes. Everything runs on the accelerator, for a batch of molecules and at static shapes.

Two things differ from the published code. It zeroes the density below 0.2 before the fit, which pulls the atoms of a
perfect density up to 0.02 angstrom off; here the density itself is fitted, and those atoms come back to 1e-5 angstrom.
And it keeps strict maxima only, so that an atom midway between voxels, whose 2, 4 or 8 nearest are equal, is lost; here
the first of equal neighbours counts.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from equiscale.data.molecules import Molecules, Skipped, tally
from equiscale.data.voxels import HIGHEST, WIDTH, Grid

THRESHOLD = 0.25  # of a maximum, as published; an atom alone peaks at 0.8 to 1 on a grid of half its radius
MIN_DISTANCE = 0.8  # between atoms in angstrom, as published
STEPS = 30  # of the fit at most; an exact density takes 2 to 4
TOLERANCE = 1e-5  # in angstrom: the fit ends when no atom is to move further than this
REACH = 1.6  # of the window an atom is fitted in, in Gaussian widths: beyond, an atom's density squared is below 0.006
NEIGHBOURS = 16  # atoms of its channel that an atom's window can see; in molecules 2 to 5
LEAST = 1e-3  # a density's logarithm is taken from here on
DAMPING = 1e-2  # of the first step, relative to the curvature
DAMPING_FACTOR = 4.0


class Found(NamedTuple):
    """Atoms of n molecules, the strongest first, padded to `max_atoms`; a pytree.

    `positions` [n, max_atoms, 3] in angstrom, in the grid's frame (0 at its centre index), padding at 0; `species`
    int32 [n, max_atoms] atomic numbers, 0 for padding; `scores` [n, max_atoms] the density at the peak's voxel, 0 for
    padding.

    The report, [n] each: `n_peaks` maxima above the threshold, of which the strongest `max_atoms` were fitted, and
    all others are missing here wherever `overflow` is true; `n_clashes` atoms dropped for being too near a stronger
    one; `last_step` how far in angstrom the fit would next have moved an atom, above `TOLERANCE` where it was not
    done; `finite` whether the density was, as one that is not gives no atoms.
    """

    positions: Float[Array, "n max_atoms 3"]
    species: Int[Array, "n max_atoms"]
    scores: Float[Array, "n max_atoms"]
    n_peaks: Int[Array, " n"]
    n_clashes: Int[Array, " n"]
    last_step: Float[Array, " n"]
    finite: Bool[Array, " n"]

    @property
    def overflow(self) -> Bool[Array, " n"]:
        """Whether a molecule has more peaks than `max_atoms`, so that its weakest are missing."""
        return self.n_peaks > self.species.shape[1]


def find_atoms(
    densities: Float[Array, "n channels length length length"],
    grid: Grid,
    *,
    max_atoms: int,
    threshold: float = THRESHOLD,
    min_distance: float = MIN_DISTANCE,
    steps: int = STEPS,
) -> Found:
    """The atoms whose `voxelise`d density is nearest each of `densities`, noisy or exact.

    `threshold` is the least density of a peak, `min_distance` the least distance of two atoms in angstrom (0 keeps
    all), `steps` bounds those of the fit: 0 leaves each atom at the maximum of the Gaussian through its peak voxel and
    the next ones. Memory is about five times that of `densities`: give a large set in batches of one size.

    Raises ValueError when the shape is not that of the grid, for settings out of range, and for a density that is NaN
    or infinite, naming the molecule. Inside `jax.jit` the last cannot raise: look at `finite` of the result.
    """
    densities = jnp.asarray(densities)
    if densities.ndim != 5 or densities.shape[1:] != grid.shape:
        raise ValueError(f"densities {densities.shape}: give [n, *{grid.shape}], as the grid has it")
    if not 1 <= max_atoms <= math.prod(grid.shape):
        raise ValueError(f"max_atoms={max_atoms}: give 1 to {math.prod(grid.shape)}, the number of voxels")
    for name, value, fine in (
        ("threshold", threshold, threshold > 0),
        ("min_distance", min_distance, min_distance >= 0),
        ("steps", steps, steps >= 0),
    ):
        if not fine:
            raise ValueError(f"{name}={value}: give a positive number" + (" or 0" if name != "threshold" else ""))
    densities = densities.astype(jnp.promote_types(densities.dtype, jnp.float32))
    found = _find(densities, grid, max_atoms, threshold, min_distance, steps)
    if not isinstance(found.finite, jax.core.Tracer) and not (finite := np.asarray(found.finite)).all():
        rows = np.flatnonzero(~finite).tolist()
        raise ValueError(f"densities of the molecules {rows} hold NaN or infinite values: leave those molecules out")
    return found


def to_molecules(
    found: Found, names: Sequence[str] | None = None, source: str = "peaks of densities"
) -> tuple[Molecules, Skipped]:
    """The molecules found whole, and the report on the others: no atoms, more peaks than `max_atoms`, not finite.

    `names` has one for each row of `found`, by default its number, so that a molecule can be led back to its density.
    Where nothing was found whole the result has no molecules, and the report says why.

    Raises ValueError for another number of names.
    """
    n = len(found.species)
    names = [str(row) for row in range(n)] if names is None else names
    if len(names) != n:
        raise ValueError(f"{len(names)} names for {n} molecules: give one each")
    species, max_atoms = np.asarray(found.species, np.int32), found.species.shape[1]
    whole, reasons = np.zeros(n, bool), []
    for row, (finite, overflow) in enumerate(zip(*map(np.asarray, (found.finite, found.overflow)), strict=True)):
        if not finite:
            reasons.append("with a density that is not finite")
        elif overflow:
            reasons.append(f"with more than {max_atoms} peaks")
        elif not species[row].any():
            reasons.append("without a peak")
        else:
            whole[row] = True
            reasons.append(None)
    kept = tuple(names[row] for row in np.flatnonzero(whole))
    return Molecules(np.asarray(found.positions, np.float32)[whole], species[whole], kept, source), tally(reasons)


def is_peak(densities: Float[Array, "*batch x y z"]) -> Bool[Array, "*batch x y z"]:
    """Local maxima among the 26 neighbours: of equal neighbours the first in the order of voxels.

    A voxel has to be above the 13 neighbours before it and not below the 13 after it. Outside the grid is -infinity.
    """
    # The running maximum over one more axis at each turn: what lies before or after a voxel is then a row, a plane.
    before = after = jnp.full_like(densities, -jnp.inf)
    highest = densities
    for axis in (densities.ndim - 1, densities.ndim - 2, densities.ndim - 3):
        padded = jnp.pad(highest, [(int(a == axis),) * 2 for a in range(densities.ndim)], constant_values=-jnp.inf)
        length = densities.shape[axis]
        lower, upper = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in (0, 2))
        before, after = jnp.maximum(before, lower), jnp.maximum(after, upper)
        highest = jnp.maximum(highest, jnp.maximum(lower, upper))
    return (densities > before) & (densities >= after)


@functools.partial(jax.jit, static_argnames=("grid", "max_atoms", "steps"))
def _find(densities, grid, max_atoms, threshold, min_distance, steps) -> Found:
    return jax.vmap(lambda density: _find_one(density, grid, max_atoms, threshold, min_distance, steps))(densities)


def _find_one(density, grid, max_atoms, threshold, min_distance, steps) -> Found:
    """`find_atoms` for one density [channels, length, length, length]."""
    finite = jnp.isfinite(density).all()
    density = jnp.where(finite, density, 0)
    heights = jnp.where(is_peak(density) & (density >= threshold), density, 0)
    scores, where = jax.lax.top_k(heights.ravel(), max_atoms)
    channel, *voxel = jnp.unravel_index(where, density.shape)
    voxel = jnp.stack(voxel, axis=-1)

    def fit_and_judge(_, state):
        positions, kept, last_step = state
        if steps:
            positions, last_step = _fit(density, channel, voxel, kept, positions, grid, steps)
        return positions, _without_clashes(positions, kept, min_distance), last_step

    guess = _first_guess(density, channel, voxel, grid)
    # Twice, as an atom that was dropped had a share in the fit of the others in its channel.
    state = (guess, scores > 0, jnp.zeros((), density.dtype))
    positions, kept, last_step = jax.lax.fori_loop(0, 2, fit_and_judge, state)
    order = jnp.argsort(~kept, stable=True)  # padding to the end
    kept, n_peaks = kept[order], jnp.count_nonzero(heights)
    return Found(
        positions=jnp.where(kept[:, None], positions[order], 0),
        species=jnp.where(kept, jnp.array(grid.numbers, jnp.int32)[channel[order]], 0),
        scores=jnp.where(kept, scores[order], 0),
        n_peaks=n_peaks,
        n_clashes=jnp.minimum(n_peaks, max_atoms) - jnp.count_nonzero(kept),
        last_step=last_step,
        finite=finite,
    )


def _first_guess(density, channel, voxel, grid) -> Float[Array, "n_atoms 3"]:
    """The voxel's coordinates plus (ln v+ - ln v-) w^2 / (4 resolution) on each axis, w the Gaussian's width.

    Exact for an atom alone; kept within the voxel.
    """
    axis = jnp.asarray(grid.axis, density.dtype)

    def log_density(offsets):
        x, y, z = jnp.moveaxis(jnp.clip(voxel[:, None] + offsets, 0, grid.length - 1), -1, 0)
        return jnp.log(jnp.maximum(density[channel[:, None], x, y, z], LEAST))

    slope = log_density(jnp.eye(3, dtype=int)) - log_density(-jnp.eye(3, dtype=int))
    offset = slope * (WIDTH * grid.radius) ** 2 / (4 * grid.resolution)
    return axis[voxel] + jnp.clip(offset, -grid.resolution / 2, grid.resolution / 2)


def _fit(density, channel, voxel, real, positions, grid, steps) -> tuple[Float[Array, "n_atoms 3"], Float[Array, ""]]:
    """Positions of least squared error, all atoms of a molecule at once, and the longest step not yet taken.

    Levenberg-Marquardt steps with the 3 x 3 blocks of single atoms: atoms of a channel hardly overlap, and the blocks
    converge as fast as the whole matrix. A step that an atom's own window finds worse is not taken but damped. No
    atom leaves its window, on the published grid the 1.75 angstrom cube about its peak, and so none leaves the grid.
    """
    size = min(2 * math.ceil(REACH * WIDTH * grid.radius / grid.resolution) + 1, grid.length)
    start = jnp.clip(voxel - size // 2, 0, grid.length - size)
    target = jax.vmap(lambda c, s: jax.lax.dynamic_slice(density[c], s, (size,) * 3))(channel, start)
    axes = jnp.asarray(grid.axis, density.dtype)[start[..., None] + jnp.arange(size)]  # [n_atoms, 3, size]
    lowest, highest = axes[..., 0] - grid.resolution / 2, axes[..., -1] + grid.resolution / 2

    n_atoms = len(channel)
    distances = jnp.where(jnp.eye(n_atoms, dtype=bool), -1, _squared_distances(positions))  # itself comes first
    together = (channel[:, None] == channel) & real[:, None] & real
    nearest, neighbours = jax.lax.top_k(jnp.where(together, -distances, -jnp.inf), min(NEIGHBOURS, n_atoms))
    weights = jnp.isfinite(nearest).astype(density.dtype)

    def proposal(errors, damping):
        _, gradient, curvature = errors
        scale = jnp.trace(curvature, axis1=1, axis2=2) / 3
        ridge = jnp.where(scale > 0, damping * scale, 1)  # 1: padding, which stays
        damped = curvature + ridge[:, None, None] * jnp.eye(3, dtype=scale.dtype)
        return -jnp.linalg.solve(damped, gradient[..., None])[..., 0]

    def step(state):
        i, r, errors, damping, moves, _ = state
        trial = jnp.clip(r + moves, lowest, highest)
        new = _window_error(trial, neighbours, weights, axes, target, WIDTH * grid.radius)
        better = new[0] <= errors[0]
        r, *errors = (
            jnp.where(jnp.expand_dims(better, range(1, a.ndim)), a, b)
            for a, b in zip((trial, *new), (r, *errors), strict=True)
        )
        damping = damping * jnp.where(better, 1 / DAMPING_FACTOR, DAMPING_FACTOR)
        moves = proposal(errors, damping)
        return i + 1, r, tuple(errors), damping, moves, jnp.sqrt(jnp.max(jnp.sum(moves**2, axis=1)))

    def unfinished(state):
        return (state[0] <= steps) & (state[-1] > TOLERANCE)

    # No move from an infinite error: the first turn looks at the start.
    infinite, still = jnp.full(n_atoms, jnp.inf, density.dtype), jnp.zeros_like(positions)
    errors = infinite, still, jnp.zeros((n_atoms, 3, 3), density.dtype)
    damping = jnp.full(n_atoms, DAMPING * DAMPING_FACTOR, density.dtype)
    state = jax.lax.while_loop(unfinished, step, (0, positions, errors, damping, still, infinite[0]))
    return state[1], state[-1]


def _window_error(positions, neighbours, weights, axes, target, width):
    """Squared error in each atom's window [n_atoms], half its gradient [n_atoms, 3] and curvature [n_atoms, 3, 3].

    The window holds 1 - prod_b (1 - p_b) over the `neighbours` b that have weight 1, the atom itself the first of
    them. The gradient is that of the whole grid's error as far as the atom's density reaches no further.
    """
    offsets = axes[:, None] - positions[neighbours][..., None]  # [n_atoms, neighbours, 3, size]
    x, y, z = jnp.moveaxis(jnp.exp(-((offsets / width) ** 2)), 2, 0)
    p = weights[..., None, None, None] * x[..., :, None, None] * y[..., None, :, None] * z[..., None, None, :]
    p = jnp.minimum(p, 1 - jnp.finfo(p.dtype).epsneg)  # so that the atom's own vacancy can be divided out
    vacancy = jnp.prod(1 - p, axis=1)
    excess = (1 - vacancy - target).reshape(len(target), -1)
    own = vacancy * p[:, 0] / (1 - p[:, 0]) * 2 / width**2
    dx, dy, dz = jnp.moveaxis(offsets[:, 0], 1, 0)
    slopes = [own * dx[:, :, None, None], own * dy[:, None, :, None], own * dz[:, None, None, :]]
    jacobian = jnp.stack(slopes, axis=1).reshape(len(target), 3, -1)
    gradient = jnp.einsum("aiv,av->ai", jacobian, excess, precision=HIGHEST)
    curvature = jnp.einsum("aiv,ajv->aij", jacobian, jacobian, precision=HIGHEST)
    return jnp.sum(excess**2, axis=1), gradient, curvature


def _without_clashes(positions, real, min_distance) -> Bool[Array, " n_atoms"]:
    """Which atoms stay: going down in strength, those with none that stays nearer than `min_distance` before them."""
    near = _squared_distances(positions) < min_distance**2
    before = jnp.arange(len(real))

    def judge(i, kept):
        return kept.at[i].set(kept[i] & ~jnp.any(near[i] & kept & (before < i)))

    return jax.lax.fori_loop(0, len(real), judge, real)


def _squared_distances(positions) -> Float[Array, "n_atoms n_atoms"]:
    return jnp.sum((positions[:, None] - positions) ** 2, axis=-1)
