"""Real spherical harmonics in float64, in e3nn's basis.

Harmonics are orthonormal on the sphere ("integral" normalisation), so that int Y_k Y_k' dp = delta_kk'. The index of
degree l and order m is k = l^2 + l + m, and there are K = (L + 1)^2 up to degree L. e3nn's polar axis is y: degree 1 is
sqrt(3 / 4 pi) (x, y, z).
"""

import numpy as np
from jaxtyping import Float
from scipy.special import sph_harm_y_all


def harmonics(points: Float[np.ndarray, "points 3"], degree: int) -> Float[np.ndarray, "points K"]:
    """Y_k(p_s) of unit vectors, for every degree up to `degree`."""
    polar, azimuth = angles(points)
    return _real(sph_harm_y_all(degree, degree, polar, azimuth), degree)


def harmonics_and_slopes(
    polar: Float[np.ndarray, " points"], azimuth: Float[np.ndarray, " points"], degree: int
) -> tuple[Float[np.ndarray, "points K"], Float[np.ndarray, "points 2 K"]]:
    """Y_k and its derivatives by the polar and the azimuthal angle, at points given by their angles in radians."""
    values, slopes = sph_harm_y_all(degree, degree, polar, azimuth, diff_n=1)
    slopes = [_real(slopes[..., axis], degree) for axis in (0, 1)]
    return _real(values, degree), np.stack(slopes, axis=1)


def angles(points: Float[np.ndarray, "points 3"]) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """The angle to the y axis and the azimuth about it, zero along z: e3nn's beta and alpha, in radians."""
    x, y, z = points.T
    return np.arctan2(np.hypot(x, z), y), np.arctan2(x, z)


def unit_vectors(polar: Float[np.ndarray, " points"], azimuth: Float[np.ndarray, " points"]):
    """The points `[points, 3]` of those angles: the inverse of `angles`."""
    around = np.sin(polar)
    return np.stack([around * np.sin(azimuth), np.cos(polar), around * np.cos(azimuth)], axis=-1)


def _real(values: np.ndarray, degree: int) -> np.ndarray:
    """Complex harmonics `[l, m, points]` in SciPy's order and phase as e3nn's real ones `[points, K]`."""

    def one(n: int, m: int) -> np.ndarray:
        part = values[n, m].real if m >= 0 else values[n, -m].imag
        return part if m == 0 else (-1) ** m * np.sqrt(2) * part  # the sign undoes Condon and Shortley's

    return np.stack([one(n, m) for n in range(degree + 1) for m in range(-n, n + 1)], axis=-1)
