"""Loss planes: both components on one grid through parameter space (section 3.4 and D.4 of the paper)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from equiscale.components import Components, Vector


class Plane(NamedTuple):
    """Losses at `vector + a u + b v` for each pair of coordinates."""

    a: Float[np.ndarray, " n_a"]
    b: Float[np.ndarray, " n_b"]
    losses: dict[str, Float[np.ndarray, "n_a n_b"]]  # total, mean, equiv


def eigen_axes(
    values: Float[np.ndarray, " m"], vectors: Float[np.ndarray, "n m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The eigenvectors of the total loss's Hessian (`numpy.linalg.eigh`) for its largest and smallest positive value.

    Where that one is rounding (`Spectrum.condition_is_noise`) the second is an arbitrary vector of the null space.
    Raises ValueError if no eigenvalue is positive.
    """
    if values[-1] <= 0:
        raise ValueError(f"no eigenvalue is positive (the largest is {values[-1]:.3g})")
    return vectors[:, -1], vectors[:, np.argmax(values > 0)]


def paper_step(learning_rate: float, gradient_norm: float, factor: float = 2.5) -> float:
    """The papers' spacing: 2 to 3 times (learning rate times the norm of the total gradient over all parameters)."""
    return factor * learning_rate * gradient_norm


def plane(
    of: Components,
    u: Vector,
    v: Vector,
    step: float,
    *,
    half_width: int = 10,
    vector: Vector | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Plane:
    """Total, mean and equivariance loss on a square grid of `2 half_width + 1` points a side, `step` apart."""
    centre = of.vector if vector is None else vector
    coordinates = step * np.arange(-half_width, half_width + 1)
    with of.precision():

        @jax.jit
        def row(data, points):
            return jax.lax.map(lambda p: of.losses_of(data, p), points)

        rows = [
            jax.device_get(row(of.data, centre + a * np.asarray(u) + coordinates[:, None] * np.asarray(v)))
            for a in progress(coordinates)
        ]
    losses = {part: np.stack([r[part] for r in rows]) for part in rows[0]}
    return Plane(coordinates, coordinates, losses)
