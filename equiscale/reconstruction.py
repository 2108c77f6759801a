"""Is what is made of a turned input the turned prediction? Eq. 4 of arXiv 2507.09753, element by element.

    equivariance(g)   = E |g^-1 f(g x) - f(x)|^2
    reconstruction(g) = E |g^-1 f(g x) - y|^2,  of which the one at the identity is the paper's bound

They differ by a correlation, since exactly

    reconstruction(g) = reconstruction(e) + equivariance(g) + 2 E <f(x) - y, g^-1 f(g x) - f(x)>,

and over a group the mean of equivariance(g), averaged over the orbit of x, is twice the equivariance loss.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from equiscale import checks
from equiscale.decompose import check_prediction, count_rows
from equiscale.losses import mask_leaves, square_norm
from equiscale.reduce import AxisName, Moments
from equiscale.twirl import Model, Segments, Symmetry, twist


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Errors per component for each of k group elements, in the order of the measure; add two to merge batches."""

    moments: Moments  # of weight, bound, k equivariance and k reconstruction errors

    def __add__(self, other: "Reconstruction") -> "Reconstruction":
        return Reconstruction(self.moments + other.moments)

    def _ratios(self, rows: slice, under: int) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        unit = jnp.eye(len(self.moments.mean))
        both = [(self.moments.ratio(u, unit[under]), self.moments.ratio_stderr(u, unit[under])) for u in unit[rows]]
        return jnp.stack([value for value, _ in both]), jnp.stack([error for _, error in both])

    @property
    def _k(self) -> int:
        return (len(self.moments.mean) - 2) // 2

    @property
    def bound(self) -> Float[Array, ""]:
        """The reconstruction error of inputs as they are."""
        return self._ratios(slice(1, 2), 0)[0][0]

    @property
    def equivariance(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Values and standard errors over examples."""
        return self._ratios(slice(2, 2 + self._k), 0)

    @property
    def reconstruction(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Values and standard errors over examples."""
        return self._ratios(slice(2 + self._k, None), 0)

    @property
    def share(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Equivariance errors over the bound, and standard errors: below 1 is what the paper calls equivariant."""
        return self._ratios(slice(2, 2 + self._k), 1)

    def record(self) -> dict[str, Any]:
        """Plain numbers: one row of a metrics file."""
        row: dict[str, Any] = {"bound": self.bound.item(), "n_examples": self.moments.count.item()}
        for name in ("equivariance", "reconstruction", "share"):
            values, errors = getattr(self, name)
            row |= {name: values.tolist(), f"{name}_stderr": errors.tolist()}
        return row


def reconstruction(
    f: Model,
    sym: Symmetry,
    x: Any,
    y: Any,
    *,
    mask: Any = None,
    weight: Float[Array, " batch"] | None = None,
    segments: Segments = None,
    axis_name: AxisName = None,
) -> Reconstruction:
    """Eq. 4 for each element of `sym`'s measure, one forward pass each; settings as for `decompose`.

    Raises ValueError for a measure that draws its elements, and what `decompose` raises for inputs that do not fit.
    """
    if not sym.measure.deterministic:
        raise ValueError(
            f"{sym.measure} draws other elements for every example: name them, as octahedral.enumerate() does"
        )
    x, y = jax.tree.map(jnp.asarray, (x, y))
    n = count_rows(sym, y, weight)
    checks.check_finite(x, "the input")
    checks.check_finite(y, "the target", mask_leaves(mask, y))
    square, components = square_norm(sym.act_target, y, n, mask=mask, segments=segments)
    twisted = twist(f, sym, segments=segments)
    plain = f(x)

    def between(a, b):
        return square(jax.tree.map(jnp.subtract, a, b))

    def errors(g):
        z = twisted(g, x)
        check_prediction(sym, z, y, None, None, n, segments)
        return between(z, plain), between(z, y)

    elements = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), sym.measure.draw(None))
    equivariance, turned = jax.lax.map(errors, elements)
    weight = jnp.ones(n) if weight is None else jnp.asarray(weight, float)
    weight = jnp.where(components > 0, weight, 0)
    rows = jnp.concatenate([jnp.ones((1, n)), between(plain, y)[None], equivariance, turned])
    return Reconstruction(Moments.of((weight * rows).T, weight > 0).psum(axis_name))
