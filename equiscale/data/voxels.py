"""Molecules as densities on a cubic grid, differentiable in the coordinates: VoxMol (arXiv 2306.07473).

An atom a of any element spreads p_a(x) = exp(-|x - r_a|^2 / (0.93 R)^2) with R = 0.5 angstrom; a
channel holds the soft-OR of its atoms, v_c(x) = 1 - prod_{a in c} (1 - p_a(x)), between 0 and 1.
There is no cut-off window, so that the density turns with the molecule.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from equiscale.data.molecules import Molecules, Skipped, atomic_number, tally

WIDTH = 0.93  # of a Gaussian, in atom radii
ORIGINS = ("symmetric", "voxmol")
BLOCK = 8  # atoms multiplied in at once
HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class Grid:
    """A cube of `length`^3 voxels, `resolution` angstrom each, one channel per element.

    Voxel j of an axis sits at (j - j0) * resolution angstrom. `origin="symmetric"` has
    j0 = (length - 1) / 2, so that turning the grid about its centre is turning the molecule about the
    origin. `origin="voxmol"` has j0 = length / 2 - 1.125 as the published code does, for parity with
    its voxels only: there turning the grid and turning the molecule differ by half of it and more.

    Raises ValueError for an unknown or repeated element, an unknown origin, and sizes that are not
    positive.
    """

    length: int
    resolution: float = 0.25
    elements: tuple[str, ...] = ("C", "H", "O", "N", "F")
    radius: float = 0.5
    origin: str = "symmetric"

    def __post_init__(self):
        for name in ("length", "resolution", "radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a positive number")
        if self.origin not in ORIGINS:
            raise ValueError(f"origin={self.origin!r}: give one of {ORIGINS}")
        object.__setattr__(self, "elements", tuple(self.elements))  # a list would not hash
        if not self.elements or len(set(self.numbers)) < len(self.elements):
            raise ValueError(f"elements={self.elements}: give each element once, at least one")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Atomic number of each channel."""
        return tuple(atomic_number(symbol) for symbol in self.elements)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(channels, length, length, length); the last three axes are x, y, z."""
        return (len(self.elements), self.length, self.length, self.length)

    @property
    def edge(self) -> float:
        """Of the cube, in angstrom."""
        return self.length * self.resolution

    @property
    def centre_index(self) -> float:
        """j0, the (fractional) voxel index of the coordinate 0."""
        return (self.length - 1) / 2 if self.origin == "symmetric" else self.length / 2 - 1.125

    @property
    def axis(self) -> np.ndarray:
        """Coordinates of the voxels along one axis in angstrom, float64 [length]."""
        return (np.arange(self.length) - self.centre_index) * self.resolution


QM9 = Grid(32)
GEOM_DRUGS = Grid(64, elements=("C", "H", "O", "N", "F", "S", "Cl", "Br"))


def centre(
    positions: Float[Array, "*batch n_atoms 3"], species: Int[Array, "*batch n_atoms"]
) -> Float[Array, "*batch n_atoms 3"]:
    """Positions in angstrom relative to the unweighted centroid of the real atoms; padding stays at 0."""
    real = (jnp.asarray(species) > 0)[..., None]
    total = jnp.sum(jnp.where(real, positions, 0), axis=-2, keepdims=True)
    centroid = total / jnp.maximum(jnp.sum(real, axis=-2, keepdims=True), 1)
    return jnp.where(real, positions - centroid, 0)


@functools.partial(jax.jit, static_argnames=("grid", "mode"))
def voxelise(
    positions: Float[Array, "n_atoms 3"],
    species: Int[Array, " n_atoms"],
    grid: Grid,
    *,
    mode: Literal["reverse", "forward"] = "reverse",
) -> Float[Array, "channels length length length"]:
    """Density of one molecule at its positions in angstrom, in their dtype; vmap it over a batch.

    Padding (species 0) and atoms of elements the grid does not hold contribute nothing, what lies
    outside the cube is cut off, both without a word: ask `check_fits` first. Differentiable in
    reverse mode; memory is a few times channels * length^3 numbers however many atoms there are,
    also for the gradient. `mode="forward"` is the same density for `jax.jvp`, which JAX refuses a
    function with a gradient of its own; its gradient needs memory for every atom.

    Raises ValueError when the shapes are not those of one molecule, and for another mode.
    """
    positions, species = jnp.asarray(positions), jnp.asarray(species)
    if species.ndim != 1 or positions.shape != (*species.shape, 3):
        raise ValueError(
            f"positions {positions.shape} and species {species.shape}: give one molecule, [n_atoms, 3] and "
            "[n_atoms], and use jax.vmap over a batch"
        )
    if mode not in ("reverse", "forward"):
        raise ValueError(f'mode={mode!r}: give "reverse" or "forward"')
    vacancy = _vacancy if mode == "reverse" else _product
    in_channel = (species[:, None] == jnp.array(grid.numbers)).astype(positions.dtype)
    offsets = jnp.asarray(grid.axis, positions.dtype) - positions[..., None]
    return 1 - vacancy(in_channel, -((offsets / (WIDTH * grid.radius)) ** 2))


def _product(
    in_channel: Float[Array, "n_atoms channels"], exponents: Float[Array, "n_atoms 3 length"]
) -> Float[Array, "channels length length length"]:
    """prod_a (1 - p_a) over the atoms of each channel, p_a = exp(e_ax[i] + e_ay[j] + e_az[k]).

    The product as a sum of logarithms would take one logarithm per atom and voxel and be 20 times slower.
    """
    n_atoms, _, length = exponents.shape
    # A voxel takes in a whole block of atoms while it is in a register; zero rows fill the last.
    rows = ((0, -n_atoms % BLOCK), (0, 0))
    channels = jnp.pad(in_channel, rows).reshape(-1, BLOCK, in_channel.shape[1])
    exponents = jnp.pad(exponents, (*rows, (0, 0))).reshape(-1, BLOCK, 3, length)

    def product(c, e):
        return jnp.prod(1 - c.T[:, :, None, None, None] * _density(e), axis=1)

    # Starting from the first block and not from ones, the carry varies over devices as its factors do.
    vacancy = product(channels[0], exponents[0])
    blocks = (channels[1:], exponents[1:])
    return jax.lax.scan(lambda v, block: (v * product(*block), None), vacancy, blocks)[0]


def _density(
    exponents: Float[Array, "*n_atoms 3 length"],
) -> Float[Array, "*n_atoms length length length"]:
    """p_a from its three axes, kept below 1 so that each atom's vacancy can be divided out."""
    x, y, z = jnp.moveaxis(jnp.exp(exponents), -2, 0)
    density = x[..., :, None, None] * y[..., None, :, None] * z[..., None, None, :]
    return jnp.minimum(density, 1 - jnp.finfo(density.dtype).epsneg)


# Its gradient is written out: automatic differentiation would store an [n_atoms, length^3] array. A `custom_jvp`,
# transposed by JAX, was three times slower: the scan of its transpose copies the cotangent at every atom.
_vacancy = jax.custom_vjp(_product)


def _vacancy_forward(in_channel, exponents):
    vacancy = _vacancy(in_channel, exponents)
    return vacancy, (in_channel, exponents, vacancy)


def _vacancy_backward(saved, cotangent):
    """d vacancy_c / d e_a = -(vacancy_c / (1 - p_a)) p_a, one atom at a time, summed onto its three axes."""
    in_channel, exponents, vacancy = saved
    weighted = cotangent * vacancy

    def one_atom(atom):
        c, e = atom
        p = _density(e)
        xyz = jnp.tensordot(c, weighted, 1, precision=HIGHEST) * (p / (1 - p))
        xy = xyz.sum(2)
        return -jnp.stack([xy.sum(1), xy.sum(0), xyz.sum((0, 1))])

    return None, jax.lax.map(one_atom, (in_channel, exponents))


_vacancy.defvjp(_vacancy_forward, _vacancy_backward)


def check_fits(
    molecules: Molecules, grid: Grid, any_rotation: bool = True, margin: float = 1.0
) -> tuple[np.ndarray, Skipped]:
    """Which molecules the grid shows whole once `centre`d: a mask [n] for `subset`, and the report.

    A molecule fits when its elements all have a channel and every atom keeps `margin` angstrom from
    the faces of the cube (at 1 angstrom the density is down to 0.01): under any rotation, or as it
    lies when `any_rotation` is False.
    """
    real = molecules.species > 0
    known = (np.isin(molecules.species, grid.numbers) | ~real).all(axis=1)
    centred = np.asarray(centre(molecules.positions, molecules.species))
    low, high = grid.axis[0] - grid.resolution / 2, grid.axis[-1] + grid.resolution / 2
    if any_rotation:
        reach = np.linalg.norm(centred, axis=2).max(axis=1, initial=0)
        inside = reach + margin <= min(-low, high)
    else:
        inside = (centred.max(axis=(1, 2), initial=0) + margin <= high) & (
            centred.min(axis=(1, 2), initial=0) - margin >= low
        )
    outside_elements = f"holding an element outside {' '.join(grid.elements)}"
    leaves = f"leaving the {grid.edge:.1f} angstrom grid"
    reasons = np.where(known, np.where(inside, None, leaves), outside_elements)
    return known & inside, tally(reasons.tolist())
