"""Models made equivariant under rotations at test time by a few of them, which each example's own points choose.

Rotations R(x) that turn against the points, R(g x) = R(x) g^-1, make any f equivariant:

    canonical pose    R(x)^-1 f(R(x) x)                      one forward pass
    frame average     sum_k (H_k R(x))^-1 f(H_k R(x) x) / 4  four (Puny et al., arXiv 2110.03336, Eq. 7)

with R(x) the principal axes of the points about their centroid, largest spread first, and H_k the identity and the
half turns about x, y, z, which are all right-handed choices of the axes' signs. A pose takes one of these: its first
two axes point to where the sum of cubes of the coordinates is positive. Against `equiscale.symmetrise`, of a fixed
number of random elements, both are exact, and neither is continuous in x:

- where two spreads (eigenvalues of the covariance) meet, their axes change places. Both jump there: no efficient
  frames of equal weights keep f continuous (Dym et al., arXiv 2402.16077). Near that place rounding is made larger, by
  the largest spread over the difference;
- where the sum of cubes along one of the first two axes vanishes, the pose jumps by a half turn. The frame average,
  which has all four, does not.

On such points the values are finite, and those of one of the choices. Planar points have three different spreads, and
are nothing special. Two axes of a line (two points, say) are any, as all three are of a single point or none: the
input along them is zero and does not show which, and what a frame average of scalars and vectors gives is exact
nevertheless where the points are centred, for half turns about the line take vectors across it away. A pose of them is
finite, not equivariant.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from equiscale.actions import Segments
from equiscale.groups import octahedral, so3
from equiscale.measures import to_device
from equiscale.rotations import HIGHEST, compose_matrices, half_turns
from equiscale.twirl import Model, Symmetry, average_twists, twist

Points = Float[Array, "batch n 3"]
Positions = Callable[[Any], tuple[Points, Bool[Array, "batch n"] | None]]


def frame_average(f: Model, sym: Symmetry, positions: Positions, *, chunk: int | None = None) -> Model:
    """`f` averaged over the four frames of each example: equivariant under all rotations for any f, in four passes.

    Args:
      f: a function of the whole batch x.
      sym: its actions are used, on input and output; its measure only says that the group is one of rotations.
      positions: x -> (points `[batch, n, 3]`, which of them count `[batch, n]`, None for all). They must turn as the
        action on x turns them. Those left out may hold anything, but for gradients by x something finite.
      chunk: frames evaluated at once (None: chosen by size and backend).

    The model returned takes `segments` where x is a padded graph, and gives float32 or better. Gradients by parameters
    of f are those of four passes. By x they are exact wherever the spreads differ; where they meet, within rounding,
    the axes are differentiated as if they stood still: finite, and the derivative of nothing.

    Raises ValueError for other groups than rotations, and for points of another shape.
    """
    sym = _by_example(sym)

    def averaged(x, *, segments: Segments = None):
        points, real = checked_points(positions, x)
        elements = compose_matrices(to_device(half_turns())[:, None], jax.vmap(principal_frame)(points, real))
        equal = np.full(len(elements), 1 / len(elements))
        settings = {"n_examples": len(points), "segments": segments, "chunk": chunk}
        return average_twists(f, sym, elements[None], equal, x, **settings)

    return averaged


def canonicalise(f: Model, sym: Symmetry, positions: Positions) -> Model:
    """`f` of each example in its canonical pose, turned back: equivariant for any f, in one forward pass.

    Arguments, gradients and what raises are those of `frame_average`; signs of axes have no derivative either.
    """
    sym = _by_example(sym)

    def posed(x, *, segments: Segments = None):
        points, real = checked_points(positions, x)
        return twist(f, sym, segments=segments)(jax.vmap(pose)(points, real), x)

    return posed


def _by_example(sym: Symmetry) -> Symmetry:
    """The same actions, taken by one element of SO(3) an example."""
    if sym.measure.group not in (so3, octahedral):
        raise ValueError(
            f"frames and poses are rotations of points, and {sym.measure} is of the group {sym.measure.group.name}: "
            "give a Symmetry with a measure on so3"
        )
    return dataclasses.replace(sym, measure=so3.coset(4))


def checked_points(positions: Positions, x: Any) -> tuple[Points, Bool[Array, "batch n"]]:
    """The points of a batch and which of them count. Raises ValueError for other shapes."""
    points, real = positions(x)
    points = jnp.asarray(points)
    if points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f"positions must give points [batch, n, 3], got shape {list(points.shape)}")
    real = jnp.ones(points.shape[:2], bool) if real is None else jnp.asarray(real)
    if real.shape != points.shape[:2]:
        raise ValueError(f"of points {list(points.shape)} the mask must be {list(points.shape[:2])}, got {real.shape}")
    return points.astype(jnp.promote_types(points.dtype, jnp.float32)), real.astype(bool)


# --- of one example --------------------------------------------------------------------------------------------


def principal_frame(points: Float[Array, "n 3"], real: Bool[Array, " n"]) -> Float[Array, "3 3"]:
    """A rotation that takes the points' principal axes, by falling spread, to x, y, z; right up to signs of rows."""
    apart = _centred(points, real)
    return principal_axes(jnp.einsum("ni,nj->ij", apart, apart, precision=HIGHEST))


def pose(points: Float[Array, "n 3"], real: Bool[Array, " n"]) -> Float[Array, "3 3"]:
    """The one of the four frames whose first two axes point to where the points' sum of cubes is not negative."""
    axes = principal_frame(points, real)
    along = jnp.einsum("ki,ni->nk", axes, _centred(points, real), precision=HIGHEST)
    first, second = jnp.where((along**3).sum(0) < 0, -1, 1).astype(axes.dtype)[:2]
    return jnp.stack([first, second, first * second])[:, None] * axes


def _centred(points: Float[Array, "n 3"], real: Bool[Array, " n"]) -> Float[Array, "n 3"]:
    """Displacements from the centroid of those that count, 0 for the others."""
    kept = jnp.where(real[:, None], points, 0)
    return jnp.where(real[:, None], kept - kept.sum(0) / jnp.maximum(real.sum(), 1), 0)


@jax.custom_jvp
def principal_axes(c: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Eigenvectors of a symmetric matrix as rows of a rotation, by falling eigenvalue.

    Its derivative is perturbation theory's, d e_k = sum_j e_j (e_j dC e_k) / (l_k - l_j), without the terms of
    eigenvalues that coincide to rounding.
    """
    _, columns = jnp.linalg.eigh(c)
    first, second = columns[:, 2], columns[:, 1]
    return jnp.stack([first, second, jnp.cross(first, second)])


@principal_axes.defjvp
def _principal_axes_jvp(primals, tangents):
    (c,), (dc,) = primals, tangents
    axes = principal_axes(c)
    in_axes = [compose_matrices(compose_matrices(axes, m), axes.T) for m in (c, dc)]
    values = jnp.diagonal(in_axes[0])
    apart = values[:, None] - values
    known = jnp.abs(apart) > 10 * jnp.finfo(c.dtype).eps * jnp.abs(values).max()
    turn = jnp.where(known, in_axes[1] / jnp.where(known, apart, 1), 0)
    return axes, compose_matrices(turn, axes)
