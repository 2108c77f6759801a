"""Antipodal spherical designs: equal weights that integrate every polynomial up to a degree t, the strength, exactly.

    (1 / S) sum_s f(p_s) = (1 / 4 pi) int f(p) dp        for all polynomials f of degree t or less

(Delsarte, Goethals and Seidel, Geometriae Dedicata 1977, 6, 363). Equivalently the Weyl sums mean_s Y_k(p_s) vanish
for degrees 1 to t. Odd degrees vanish because every point has its antipode; the others are solved for by least squares
in the angles of half of the points, from the first half of a Fibonacci lattice. There are S - 3 unknowns beyond a
rotation, and 2 k^2 + 3 k equations, k = (t - 1) / 2.

The file beside this module holds the halves. `python -m equiscale.sphere.designs --output=designs.npz` makes it anew,
in about two minutes.
"""

import argparse
import pathlib

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from equiscale.sphere import harmonics as sh

# Strength of the design of each size: the largest whose equations are not more than the unknowns, but for the
# octahedron and the icosahedron, which owe theirs to symmetry, and sizes that are convenient.
STRENGTHS = {
    6: 3,
    12: 5,
    32: 7,
    48: 9,
    64: 9,
    70: 11,
    94: 13,
    128: 15,
    160: 17,
    192: 19,
    256: 21,
    384: 27,
    512: 31,
}
TOLERANCE = 1e-13  # largest Weyl sum of a design that is kept


def design(size: int) -> Float[np.ndarray, "size 3"]:
    """The stored design of `size` points, a key of `STRENGTHS`: half of them, then their antipodes."""
    with np.load(pathlib.Path(__file__).with_name("designs.npz")) as halves:
        half = halves[str(size)]
    return np.concatenate([half, -half])


def weyl_sums(points: Float[np.ndarray, "points 3"], degree: int) -> Float[np.ndarray, " K-1"]:
    """mean_s Y_k(p_s) for degrees 1 to `degree`; all zero for a design of that strength."""
    return sh.harmonics(points, degree)[:, 1:].mean(axis=0)


def solve(size: int, strength: int, *, seed: int = 0) -> Float[np.ndarray, "half 3"]:
    """Half of the points of an antipodal design.

    Args:
      size: number of points S, even.
      strength: degree t, odd.
      seed: of the small noise that takes the start off the lattice's symmetry.

    Raises:
      RuntimeError: when a Weyl sum above `TOLERANCE` is left.
    """
    even = np.concatenate([np.arange(n**2, (n + 1) ** 2) for n in range(2, strength, 2)])

    def sums(angles: np.ndarray) -> np.ndarray:
        return sh.harmonics_and_slopes(*angles.reshape(2, -1), strength - 1)[0][:, even].mean(axis=0)

    def jacobian(angles: np.ndarray) -> np.ndarray:
        slopes = sh.harmonics_and_slopes(*angles.reshape(2, -1), strength - 1)[1][..., even]
        return slopes.transpose(2, 1, 0).reshape(len(even), -1) * (2 / size)

    z = 1 - (2 * np.arange(size // 2) + 1) / size
    azimuth = np.arange(size // 2) * np.pi * (np.sqrt(5) - 1)
    start = np.concatenate([np.arccos(z), azimuth])
    start += 1e-3 * np.random.default_rng(seed).normal(size=start.shape)
    found = least_squares(sums, start, jacobian, xtol=1e-15, ftol=None, gtol=1e-15, max_nfev=2000)
    half = sh.unit_vectors(*found.x.reshape(2, -1))
    left = np.abs(weyl_sums(np.concatenate([half, -half]), strength)).max()
    if left > TOLERANCE:
        raise RuntimeError(f"no design of {size} points and strength {strength} from seed {seed}: {left:.1e} is left")
    return half


def main() -> None:
    parser = argparse.ArgumentParser(description="Solves for every design of STRENGTHS and stores half of its points.")
    parser.add_argument("--output", required=True, help="the .npz file to write")
    output = parser.parse_args().output
    np.savez(output, **{str(size): solve(size, strength) for size, strength in STRENGTHS.items()})


if __name__ == "__main__":
    main()
