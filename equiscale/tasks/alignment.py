"""Bringing the latents of turned examples together: an auxiliary training loss, and the same measured.

Of an encoder phi and a group element g an example there are two latents `[c, ...]` to compare,

    "equivariant":  a = g phi(x),       b = phi(g x)
    "invariant":    a = <phi(x)>,       b = <phi(g x)>,       <.> the mean over voxels,

and with m the mean of all a and b of the batch, component by component, they disagree by

    A = mean_c  sum_(i, v) |a - b|^2 / sum_(i, v) (|a - m|^2 + |b - m|^2),

channel by channel over examples i and voxels v: 1 minus Fisher's intraclass correlation of the pairs. It is 0 for
latents that agree, about 1 for unrelated ones, 2 at most. The scale of no channel matters, nor what all examples share:
without the denominator the cheapest way to agree would be to shrink, without m to add a constant.

The denominator is differentiated too. Held fixed (`stop_gradient`), the value would be as free of scale, but its
gradient would still point towards smaller latents, step after step; as it is, it is orthogonal to any change of scale.
What keeps latents from collapsing is how molecules differ, so that neither branch has to be held fixed.

Asking for the first is asking for more than equivariance: that channels are scalar fields, none mixed by g.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TINY = 1e-30  # under a channel that is constant: its 0 / 0 is 0


class Alignment(NamedTuple):
    """The auxiliary loss of a training: `weight` times A of this kind; 0 is none at all."""

    weight: float = 0.0
    kind: str = "equivariant"

    def check(self) -> "Alignment":
        """Itself. Raises ValueError for a kind there is not and a weight that is negative or not finite."""
        if self.kind not in KINDS:
            raise ValueError(f"alignment.kind {self.kind!r} is none of {', '.join(KINDS)}")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"alignment.weight {self.weight} must be 0 (none) or a positive number")
        return self


OFF = Alignment()


def spatial(z: Float[Array, "n c ..."]) -> Float[Array, "n c v"]:
    return z.reshape(*z.shape[:2], -1)


def pooled(z: Float[Array, "n c ..."]) -> Float[Array, "n c 1"]:
    return spatial(z).mean(-1, keepdims=True)


KINDS = {"equivariant": spatial, "invariant": pooled}


def disagreement(a: Float[Array, "n c v"], b: Float[Array, "n c v"]) -> Float[Array, ""]:
    """A of the module's docstring, in float32 or better.

    Raises ValueError for fewer than two examples: of one alone A is 2, whatever the latents.
    """
    if len(a) < 2:
        raise ValueError(
            "latents are aligned relative to how those of different examples differ: give batches (batch_size / "
            f"accumulate) of at least 2, not {len(a)}"
        )
    a, b = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (a, b))
    m = (a.mean(0) + b.mean(0)) / 2
    apart = jnp.square(a - b).sum((0, 2))
    spread = (jnp.square(a - m) + jnp.square(b - m)).sum((0, 2))
    return jnp.mean(apart / jnp.maximum(spread, TINY))


# --- measured on a whole validation set, in float64 on the host ------------------------------------------------


class Sums(NamedTuple):
    """Of `pairs` pairs of each of n examples, one an element: what A is made of, `square` that of a and b together."""

    apart: Float[np.ndarray, "n c"]
    square: Float[np.ndarray, "n c"]
    total: Float[np.ndarray, "n c v"]
    pairs: int

    @classmethod
    def of(cls, a: Float[np.ndarray, "pairs n c v"], b: Float[np.ndarray, "pairs n c v"]) -> "Sums":
        a, b = (np.asarray(z, np.float64) for z in (a, b))
        square = np.square(a) + np.square(b)
        return cls(np.square(a - b).sum((0, 3)), square.sum((0, 3)), (a + b).sum(0), len(a))


def joined(parts: Sequence[Sums]) -> Sums:
    """Those of all examples together."""
    return Sums(*(np.concatenate(leaves) for leaves in zip(*(part[:3] for part in parts), strict=True)), parts[0].pairs)


def measured(sums: Sums) -> tuple[float, float]:
    """A over all examples and pairs at once, and its standard error over examples (jackknife).

    Raises ValueError for fewer than two examples.
    """
    n = len(sums.apart)
    if n < 2:
        raise ValueError(f"how latents align is measured on at least 2 validation examples, not {n}")

    def of(apart, square, total, n):
        spread = square - np.square(total).sum(-1) / (2 * n * sums.pairs)
        return (apart / np.maximum(spread, TINY)).mean(-1)

    whole = [values.sum(0) for values in sums[:3]]
    without = of(*(values - own for values, own in zip(whole, sums[:3], strict=True)), n - 1)
    stderr = np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    return float(of(*whole, n)), float(stderr)
