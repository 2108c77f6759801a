"""Signals on the points of a sphere from their spherical-harmonic coefficients, and back.

    f(p_s) = sum_k Y_k(p_s) x_k            f = T x,   T[s, k] = Y_k(p_s)
    x_k = int f(p) Y_k(p) dp               x ~ F f

Coefficients are arrays `[..., K, C]`, K = (L + 1)^2 rows of C channels in the order and basis of
`equiscale.sphere.harmonics`: the rows turn as e3nn's irreps 0e + 1o + 2e + ... do. Whatever is done point by point
between T and F commutes with rotations as far as F integrates exactly (arXiv 2505.23086, equations 4, 5 and 12).
"""

import dataclasses
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from equiscale.rotations import HIGHEST
from equiscale.sphere import rules
from equiscale.sphere.harmonics import harmonics
from equiscale.wigner import wigner_d

Inverse = Literal["least_squares", "weights", "columns"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sphere:
    """Points of a sphere and the transforms to and from them: constants, float64 from `make_sphere`.

    From `turned` they are JAX arrays, and all but the weights may have leading batch axes.

    Attributes:
      points: unit vectors `[S, 3]`.
      weights: `[S]`, of sum 4 pi.
      to_points: T `[S, K]`.
      from_points: F `[K, S]`.
      log_weights: `[S]`, log(w_s S / 4 pi), to be added to the logits of a softmax over the points; exactly zero for
        equal weights.
    """

    points: Float[np.ndarray, "S 3"]
    weights: Float[np.ndarray, " S"]
    to_points: Float[np.ndarray, "S K"]
    from_points: Float[np.ndarray, "K S"]
    log_weights: Float[np.ndarray, " S"]


def make_sphere(rule: rules.Rule, degree: int, inverse: Inverse = "least_squares") -> Sphere:
    """The transforms between coefficients up to degree L = `degree` and the points of `rule`.

    Args:
      rule: from `equiscale.sphere.rules.rule`.
      degree: L, 0 or more.
      inverse: what F is, with W the diagonal of the weights.

        - `"least_squares"`: (T' W T)^-1 T' W, which makes F T = 1 for any rule;
        - `"weights"`: T' W, the integral by the rule: the same where it is exact to degree 2 L;
        - `"columns"`: T[s, k] / sum_s' T[s', k]^2, the normalisation of each harmonic alone in the Equivariant
          Spherical Transformer's released code, without weights. About 4 pi / S T' for an even set of points. The
          code splits the divisor between T and F; here F has all of it, so that sizes compare.

    Raises:
      ValueError: for an unknown inverse, a negative degree or a weight that is not positive; when the harmonics are
        not independent on the points, so that F T = 1 has no solution (always for S < K); for the inverse by weights
        when the rule is known to be exact to a degree below 2 L only.
    """
    if inverse not in ("least_squares", "weights", "columns"):
        raise ValueError(f'inverse must be "least_squares", "weights" or "columns", got {inverse!r}')
    if degree < 0:
        raise ValueError(f"degree must be 0 or more, got {degree}")
    if not (rule.weights > 0).all():
        raise ValueError(f"the weights of a rule must be positive, got {rule.weights.min():g} in {rule.name}")
    if fault := _fault(rule, degree, inverse):
        raise ValueError(f"the {rule.name} rule of {rule.size} points {fault}; {_smallest(rule.name, degree, inverse)}")
    t = harmonics(rule.points, degree)
    if inverse == "least_squares":
        root = np.sqrt(rule.weights)
        f = np.linalg.pinv(root[:, None] * t) * root
    elif inverse == "weights":
        f = t.T * rule.weights
    else:
        f = (t / np.square(t).sum(axis=0)).T
    log_weights = np.zeros(rule.size) if rule.is_equal_weighted else np.log(rule.weights * rule.size / (4 * np.pi))
    return Sphere(rule.points, rule.weights, t, f, log_weights)


@lru_cache
def sphere_of(kind: str, size: int, degree: int, inverse: Inverse = "least_squares") -> Sphere:
    """`make_sphere` of a rule by kind and size, the same object every time: a constant of models."""
    return make_sphere(rules.rule(kind, size), degree, inverse)


def to_points(sphere: Sphere, x: Float[Array, "*batch K C"]) -> Float[Array, "*batch S C"]:
    """The signal T x at every point, in the dtype of `x`. Raises ValueError for another number of rows than K."""
    return _apply(sphere.to_points, x, "coefficients [..., K, C]")


def from_points(sphere: Sphere, f: Float[Array, "*batch S C"]) -> Float[Array, "*batch K C"]:
    """The coefficients F f of a signal, in its dtype. Raises ValueError for another number of rows than S."""
    return _apply(sphere.from_points, f, "a signal [..., S, C]")


def turned(sphere: Sphere, rotation: Float[Array, "*batch 3 3"]) -> Sphere:
    """The sphere with the points R p_s: T D(R)' and D(R) F, without sampling the harmonics anew.

    One rotation per molecule goes in as a batch `[n, 3, 3]`, or by `jax.vmap`; coefficients then are `[n, K, C]`.
    Between T and F an operation may see the points by the angles between them only. Turning the points by R is then
    the same as turning the input by R^-1 and the output by R.
    """
    d = wigner_d(rotation, _degree(sphere))
    t, f, points = (jnp.asarray(a, d.dtype) for a in (sphere.to_points, sphere.from_points, sphere.points))
    return dataclasses.replace(
        sphere,
        points=jnp.einsum("...ij,...sj->...si", rotation, points, precision=HIGHEST),
        to_points=jnp.einsum("...sk,...jk->...sj", t, d, precision=HIGHEST),
        from_points=jnp.einsum("...jk,...ks->...js", d, f, precision=HIGHEST),
    )


def _apply(matrix: Array, x: Array, what: str) -> Array:
    if x.ndim < 2 or x.shape[-2] != matrix.shape[-1]:
        raise ValueError(f"this sphere takes {what} with {matrix.shape[-1]} rows, got shape {list(x.shape)}")
    return jnp.einsum("...sk,...kc->...sc", jnp.asarray(matrix, x.dtype), x, precision=HIGHEST)


def _degree(sphere: Sphere) -> int:
    return round(sphere.to_points.shape[-1] ** 0.5) - 1


def _fault(rule: rules.Rule, degree: int, inverse: Inverse) -> str | None:
    """Why the rule has no such inverse, or None."""
    if inverse == "weights" and rule.degree is not None and rule.degree < 2 * degree:
        return f"is exact to degree {rule.degree}, and inverting degree {degree} by weights needs {2 * degree}"
    n = (degree + 1) ** 2
    rank = np.linalg.matrix_rank(harmonics(rule.points, degree)) if n <= rule.size else rule.size
    if rank < n:
        return f"tells {rank} harmonics apart, and there are (L + 1)^2 = {n} up to degree L = {degree}"
    return None


def _smallest(kind: str, degree: int, inverse: Inverse) -> str:
    """The smallest rule of the kind that has the inverse, for a message."""
    offered = rules.sizes(kind, most=max(1024, 8 * (degree + 1) ** 2)) if kind in rules.KINDS else []
    fits = (size for size in offered if not _fault(rules.rule(kind, size), degree, inverse))
    size = next(fits, None)
    if size is None:
        return f"no {kind} rule will do; use another kind"
    return f"the smallest {kind} rule that will do has {size} points"
