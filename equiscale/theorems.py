"""Theorems 4, 5 and 6 of the training-dynamics paper, checked on a model: equivariance error against theta_perp.

    lowest |theta_perp|^2 <= equiv <= highest |theta_perp|^2        Eqs. 15 and 16
    |grad_perp equiv| <= 2 highest |theta_perp|                     Theorem 6

with the extreme eigenvalues of the matrix Q on the complement of the equivariant subspace.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from equiscale.actions import Action
from equiscale.components import Components, Vector
from equiscale.curvature import hessians
from equiscale.measures import Measure
from equiscale.subspace import equivariant_part


class Deviation(NamedTuple):
    """A model's chosen parameters as flat vectors: theta = theta_E + theta_perp, and an orthonormal basis of E_perp."""

    equivariant: Vector
    complement: Vector
    basis: Float[np.ndarray, "n m"]


class Bounds(NamedTuple):
    """lowest |theta_perp|^2 <= equiv <= highest |theta_perp|^2, Eqs. 15 and 16: extreme eigenvalues of Q on E_perp."""

    lowest: float
    highest: float
    deviation: float  # |theta_perp|^2
    equiv: float  # at theta
    twin: float  # at theta_E, where it vanishes if the frozen layers are equivariant too

    @property
    def effective(self) -> float:
        """equiv / |theta_perp|^2: the eigenvalue that theta_perp in fact feels."""
        return self.equiv / self.deviation

    @property
    def hold(self) -> bool:
        """Both bounds, up to rounding. Exact for a linear head (Eq. 15), up to O(|theta_perp|^3) elsewhere (Eq. 16)."""
        room = 1e-9 * self.highest * self.deviation
        return self.lowest * self.deviation - room <= self.equiv <= self.highest * self.deviation + room


class Law(NamedTuple):
    """Losses of theta_E + s theta_perp. equiv / s^2 is constant, and mean too, where the model is linear in theta."""

    s: Float[np.ndarray, " k"]
    mean: Float[np.ndarray, " k"]
    equiv: Float[np.ndarray, " k"]

    @property
    def coefficient(self) -> Float[np.ndarray, " k"]:
        return self.equiv / self.s**2


def deviation(of: Components, measure: Measure, acts: Mapping[str, Action]) -> Deviation:
    """Project the chosen parameters; `acts` maps each of their paths (`of.names`) to an action on it.

    Raises ValueError if the average over `measure` is no orthogonal projection: the actions are not orthogonal, the
    elements no group, or the quadrature's degree too low.
    """
    with of.precision():

        @jax.jit
        def project(v):
            return ravel_pytree(equivariant_part(of.unravel(v), measure, dict(acts)))[0]

        inside = np.asarray(project(of.vector))
        matrix = np.asarray(jax.jit(jax.vmap(project))(np.eye(of.n, dtype=of.vector.dtype)))
    error = max(np.abs(matrix - matrix.T).max(), np.abs(matrix @ matrix - matrix).max())
    if not error <= 1e3 * np.finfo(matrix.dtype).eps * np.sqrt(of.n):
        raise ValueError(
            f"the average over {measure} is no orthogonal projection (off by {error:.1e}): use orthogonal actions and "
            "a whole group, or a quadrature of a higher degree"
        )
    values, vectors = np.linalg.eigh(np.eye(of.n) - (matrix + matrix.T) / 2)
    return Deviation(inside, of.vector - inside, vectors[:, values > 0.5])


def quadratic_form(of: Components, from_e: Deviation, **settings) -> Float[np.ndarray, "m m"]:
    """Q of Eqs. 28 and 36 on E_perp: equiv(theta_E + d) = d^T Q d + O(|d|^3), half its Hessian at theta_E.

    On all of parameter space Q is singular, since it vanishes on E; only here can its smallest eigenvalue be positive.
    """
    hessian = hessians(of, from_e.equivariant, **settings)["equiv"]
    return from_e.basis.T @ hessian @ from_e.basis / 2


def bounds(of: Components, from_e: Deviation, **settings) -> Bounds:
    """Theorems 4 and 5 at a model's own parameters."""
    values = np.linalg.eigvalsh(quadratic_form(of, from_e, **settings))
    size = float(from_e.complement @ from_e.complement)
    equiv, twin = (float(of.losses(v)["equiv"]) for v in (of.vector, from_e.equivariant))
    return Bounds(float(values[0]), float(values[-1]), size, equiv, twin)


def law(of: Components, from_e: Deviation, s: Float[np.ndarray, " k"]) -> Law:
    """The losses along theta_E + s theta_perp, for each s (not 0)."""
    found = [of.losses(from_e.equivariant + t * from_e.complement) for t in s]
    return Law(np.asarray(s), *(np.array([row[part] for row in found]) for part in ("mean", "equiv")))


def gradient_bound(of: Components, from_e: Deviation, highest: float) -> tuple[float, float]:
    """Theorem 6, left and right: |grad_perp equiv| <= 2 highest |theta_perp|, with `Bounds.highest`."""
    gradient = from_e.basis.T @ of.gradients(of.vector)["equiv"]
    return float(np.linalg.norm(gradient)), 2 * highest * float(np.linalg.norm(from_e.complement))
