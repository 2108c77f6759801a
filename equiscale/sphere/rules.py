"""Quadrature rules on the unit sphere behind one interface.

    int f(p) dp  ~  sum_s w_s f(p_s),    sum_s w_s = 4 pi

A rule of degree t is exact for every polynomial of degree t or less, so for every spherical harmonic up to t. Weights
are positive in every rule offered here: attention over the points needs their logarithms.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.integrate import lebedev_rule

from equiscale.sphere.designs import STRENGTHS, design
from equiscale.sphere.harmonics import unit_vectors

# Number of points of Lebedev's rules and the degree up to which each is exact.
LEBEDEV = {
    **{6: 3, 14: 5, 26: 7, 38: 9, 50: 11, 74: 13, 86: 15, 110: 17, 146: 19, 170: 21, 194: 23, 230: 25, 266: 27},
    **{302: 29, 350: 31, 434: 35, 590: 41, 770: 47, 974: 53, 1202: 59, 1454: 65, 1730: 71, 2030: 77, 2354: 83},
    **{2702: 89, 3074: 95, 3470: 101, 3890: 107, 4334: 113, 4802: 119, 5294: 125, 5810: 131},
}
NEGATIVE = (74, 230, 266)  # the sizes of Lebedev's rules that have negative weights


class Rule(NamedTuple):
    """Points and weights of one rule.

    Attributes:
      name: its kind, one of `KINDS`.
      points: unit vectors `[S, 3]`.
      weights: `[S]`, positive, of sum 4 pi.
      degree: of the polynomials that it integrates exactly, or None where none above constants is known.
    """

    name: str
    points: Float[np.ndarray, "S 3"]
    weights: Float[np.ndarray, " S"]
    degree: int | None

    @property
    def size(self) -> int:
        """The number of points S."""
        return len(self.points)

    @property
    def is_equal_weighted(self) -> bool:
        """Whether every weight is 4 pi / S, to rounding."""
        return np.allclose(self.weights, 4 * np.pi / self.size, rtol=1e-12, atol=0)


def rule(kind: str, size: int) -> Rule:
    """The rule of that kind with exactly `size` points.

    - `"fibonacci"`: the lattice with half offset, z_s = 1 - (2 s + 1) / S and azimuth 2 pi s / golden ratio about z
      (Gonzalez, Mathematical Geosciences 2010, 42, 49). Equal weights, exact for no degree.
    - `"fibonacci_poles"`: the lattice z_s = 1 - 2 s / (S - 1) of the Equivariant Spherical Transformer's released
      code, azimuth s pi (3 - sqrt 5). It has a point at both poles, where equal weights count too much.
    - `"e3nn"`: e3nn's "soft" grid of b equal steps of the polar angle and a of the azimuth, b even, with the weights
      of Kostelec and Rockmore (J. Fourier Anal. Appl. 2008, 14, 145); degree b - 1. Points crowd at the poles.
    - `"gauss_legendre"`: b Gauss-Legendre nodes of the cosine and a equal steps of the azimuth; degree
      min(2 b, a) - 1.
    - `"lebedev"`: symmetric under the octahedral group (Lebedev and Laikov, Doklady Mathematics 1999, 59, 477).
    - `"design"`: stored antipodal spherical designs, of equal weights (`equiscale.sphere.designs`).

    The grids of the third and fourth kind have S = b a points, with a / b between 3/2 and 5/2. Where several pairs fit,
    a / b is nearest to 2.

    Raises:
      ValueError: for an unknown kind, for a size that no rule of the kind has, and for the three of Lebedev's rules
        with negative weights.
    """
    has, build = _kind(kind)
    if kind == "lebedev" and size in NEGATIVE:
        raise ValueError(
            f"the lebedev rule of {size} points has negative weights, which have no logarithm; {_nearest(kind, size)}"
        )
    if not has(size):
        raise ValueError(f"no {kind} rule has {size} points; {_nearest(kind, size)}")
    points, weights, degree = build(size)
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    return Rule(kind, points, weights * (4 * np.pi / weights.sum()), degree)


def sizes(kind: str, most: int = 1024) -> list[int]:
    """The sizes up to `most` that `rule(kind, size)` has, in ascending order."""
    has, _ = _kind(kind)
    return [size for size in range(1, most + 1) if has(size)]


def _kind(kind: str) -> tuple[Callable, Callable]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return KINDS[kind]


def _nearest(kind: str, size: int) -> str:
    """The offered sizes on both sides of `size`, for a message."""
    offered = sizes(kind, most=max(2 * size, max(LEBEDEV)))
    below, above = [s for s in offered if s < size][-1:], [s for s in offered if s > size][:1]
    return f"the nearest sizes are {' and '.join(map(str, below + above))}"


# --- how the points and weights of each kind are made: `([S, 3], [S], degree)`, weights up to a factor ---------------


def _fibonacci(size: int):
    s = np.arange(size)
    return _spiral(1 - (2 * s + 1) / size, s * np.pi * (np.sqrt(5) - 1))


def _fibonacci_poles(size: int):
    s = np.arange(size)
    return _spiral(1 - 2 * s / (size - 1), s * np.pi * (3 - np.sqrt(5)))


def _spiral(z: np.ndarray, azimuth: np.ndarray):
    around = np.sqrt(1 - z**2)
    return np.stack([around * np.cos(azimuth), around * np.sin(azimuth), z], axis=1), np.ones(len(z)), None


def _e3nn(size: int):
    b, a = _grid_shape(size, even=True)
    polar = (np.arange(b)[::-1] + 0.5) * np.pi / b
    odd = np.arange(1, b, 2)
    return *_grid(polar, np.sin(polar) * (np.sin(np.outer(polar, odd)) / odd).sum(axis=1), a), b - 1


def _gauss_legendre(size: int):
    b, a = _grid_shape(size)
    cosines, weights = np.polynomial.legendre.leggauss(b)
    return *_grid(np.arccos(cosines), weights, a), min(2 * b, a) - 1


def _grid(polar: np.ndarray, weights: np.ndarray, a: int):
    """Circles at some polar angles, of `a` points each."""
    azimuth = np.tile(2 * np.pi * np.arange(a) / a, len(polar))
    return unit_vectors(np.repeat(polar, a), azimuth), np.repeat(weights, a)


def _grid_shape(size: int, even: bool = False) -> tuple[int, int] | None:
    """The numbers of polar and azimuthal angles of the grid of that size, or None."""
    pairs = [(b, size // b) for b in range(1, math.isqrt(max(size, 0)) + 1) if size % b == 0 and not (even and b % 2)]
    pairs = [(b, a) for b, a in pairs if 1.5 <= a / b <= 2.5]
    return min(pairs, key=lambda pair: abs(pair[1] / pair[0] - 2), default=None)


def _lebedev(size: int):
    points, weights = lebedev_rule(LEBEDEV[size])
    return points.T, weights, LEBEDEV[size]


def _design(size: int):
    return design(size), np.ones(size), STRENGTHS[size]


# For each kind: whether it has a rule of some size, and how it is made.
KINDS = {
    "fibonacci": (lambda size: size >= 1, _fibonacci),
    "fibonacci_poles": (lambda size: size >= 2, _fibonacci_poles),
    "e3nn": (lambda size: _grid_shape(size, even=True) is not None, _e3nn),
    "gauss_legendre": (lambda size: _grid_shape(size) is not None, _gauss_legendre),
    "lebedev": (lambda size: size in LEBEDEV and size not in NEGATIVE, _lebedev),
    "design": (lambda size: size in STRENGTHS, _design),
}
