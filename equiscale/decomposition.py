"""The result of a decomposition: moments over examples, and every reported number as a ratio of them."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from equiscale.reduce import Moments

SQUARED_ERROR = "squared error"

# What is kept of each example, times its weight; `weight` itself first.
VALUES = ("weight", "total", "mean", "equiv", "signal", "floor", "irreducible")

# What `per_example` holds besides the weight, not multiplied by it.
EXAMPLE_VALUES = ("total", "mean", "equiv", "floor")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decomposition:
    """A decomposed loss: a pytree of moments, with the reported numbers as properties.

    Add two to get that of the union of their examples. Losses are per component, averaged over examples by weight;
    percentages are 0 to 100. `per_example` holds the rows behind it (`weight`, `total`, `mean`, `equiv`, `floor`,
    each `[batch]`) where they were asked for.
    """

    moments: Moments
    per_example: dict[str, Float[Array, " batch"]] | None
    measure: str = dataclasses.field(metadata={"static": True})
    estimator: str = dataclasses.field(metadata={"static": True})
    loss: str = dataclasses.field(metadata={"static": True})
    space: str = dataclasses.field(metadata={"static": True})
    irreducible_from: str | None = dataclasses.field(metadata={"static": True})

    def _ratio(self, over: str | dict, under: str | dict = "weight", scale: float = 1.0) -> Float[Array, ""]:
        return scale * self.moments.ratio(_combination(over), _combination(under))

    def _stderr(self, over: str | dict, under: str | dict = "weight", scale: float = 1.0) -> Float[Array, ""]:
        return scale * self.moments.ratio_stderr(_combination(over), _combination(under))

    @property
    def n_examples(self) -> Float[Array, ""]:
        """Independent examples (clusters, where given) of non-zero weight."""
        return self.moments.count

    @property
    def total(self) -> Float[Array, ""]:
        """The loss under random group elements, Eq. 5; accumulated on its own, not as a sum of the others."""
        return self._ratio("total")

    @property
    def total_stderr(self) -> Float[Array, ""]:
        return self._stderr("total")

    @property
    def mean(self) -> Float[Array, ""]:
        """The loss of the twirled model, Eq. 6."""
        return self._ratio("mean")

    @property
    def mean_stderr(self) -> Float[Array, ""]:
        return self._stderr("mean")

    @property
    def equiv(self) -> Float[Array, ""]:
        """The equivariance loss, Eq. 7. An unbiased estimate can fall below zero by its standard error."""
        return self._ratio("equiv")

    @property
    def equiv_stderr(self) -> Float[Array, ""]:
        return self._stderr("equiv")

    @property
    def percent(self) -> Float[Array, ""]:
        """Percent of the total loss that is equivariance error, Eqs. 8 and 9."""
        return self._ratio("equiv", "total", 100)

    @property
    def percent_stderr(self) -> Float[Array, ""]:
        """Standard error of `percent` over examples (delta method); covers the group draws, new for each example."""
        return self._stderr("equiv", "total", 100)

    @property
    def floor(self) -> Float[Array, ""]:
        """The percentage that an exactly equivariant model would read here: rounding of actions and output."""
        return self._ratio("floor", "total", 100)

    @property
    def below_floor(self) -> Bool[Array, ""]:
        """Whether `percent` cannot be told from the floor (or, unbiased, fell below zero)."""
        return self.percent <= self.floor

    @property
    def percent_reducible(self) -> Float[Array, ""] | None:
        """Percent of what the model could still improve: equiv / (total - irreducible). None if that is unknown."""
        if self.irreducible_from is None:
            return None
        return self._ratio("equiv", {"total": 1, "irreducible": -1}, 100)

    @property
    def percent_reducible_stderr(self) -> Float[Array, ""] | None:
        if self.irreducible_from is None:
            return None
        return self._stderr("equiv", {"total": 1, "irreducible": -1}, 100)

    @property
    def signal_relative(self) -> Float[Array, ""]:
        """Equivariance loss over the mean square of the twirled prediction (NaN for losses other than squared)."""
        return self._ratio("equiv", "signal") if self.loss == SQUARED_ERROR else jnp.asarray(jnp.nan)

    @property
    def identity_error(self) -> Float[Array, ""]:
        """|total - mean - equiv| / total: zero to rounding, or something is wrong."""
        return jnp.abs(self._ratio({"total": 1, "mean": -1, "equiv": -1}, "total"))

    def __add__(self, other: "Decomposition") -> "Decomposition":
        mine, theirs = self._labels(), other._labels()
        if mine != theirs:
            raise ValueError(f"only numbers of one kind can be merged: {mine} against {theirs}")
        rows = None
        if self.per_example is not None and other.per_example is not None:
            rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), self.per_example, other.per_example)
        return dataclasses.replace(self, moments=self.moments + other.moments, per_example=rows)

    def __radd__(self, other):
        return self if other == 0 else NotImplemented  # so that sum(...) works

    def _labels(self) -> dict[str, str | None]:
        names = ("measure", "estimator", "loss", "space", "irreducible_from")
        return {name: getattr(self, name) for name in names}

    def record(self) -> dict[str, Any]:
        """Plain numbers with the names they need to be read: one row of a metrics file."""
        names = ["total", "total_stderr", "mean", "mean_stderr", "equiv", "equiv_stderr", "percent"]
        names += ["percent_stderr", "floor", "below_floor", "signal_relative", "identity_error", "n_examples"]
        if self.irreducible_from is not None:
            names += ["percent_reducible", "percent_reducible_stderr"]
        numbers = _numbers(dataclasses.replace(self, per_example=None), tuple(names))
        return {name: value.item() for name, value in jax.device_get(numbers).items()} | self._labels()

    def check(self, tolerance: float = 1e-3) -> "Decomposition":
        """Refuse a result that is not finite or does not add up; returns itself. For use outside `jit`.

        Raises FloatingPointError naming the numbers.
        """
        r = self.record()
        numbers = {name: r[name] for name in ("total", "mean", "equiv")}
        if r["n_examples"] == 0:
            raise ValueError("no example has any weight: the mask or the weights are empty")
        if not all(map(math.isfinite, numbers.values())):
            raise FloatingPointError(f"the decomposed loss is not finite: {numbers}")
        if numbers["total"] > 0 and r["identity_error"] > tolerance + r["floor"] / 100:
            raise FloatingPointError(f"total = mean + equiv fails by {r['identity_error']:.1e} of the total: {numbers}")
        return self

    def __str__(self) -> str:
        r = self.record()
        share = f"< {r['floor']:.2g} (floor)" if r["below_floor"] else f"{r['percent']:.4g}"
        return (
            f"{share} +- {r['percent_stderr']:.1g} % of {r['loss']} from equivariance error: "
            f"total {r['total']:.5g} = mean {r['mean']:.5g} + equiv {r['equiv']:.5g}; "
            f"{r['measure']}, {r['estimator']}, {r['n_examples']:.0f} examples"
        )


@functools.partial(jax.jit, static_argnums=1)
def _numbers(d: Decomposition, names: tuple[str, ...]) -> dict[str, Array]:
    """Properties by name, in one program rather than dozens of small ones."""
    return {name: getattr(d, name) for name in names}


def _combination(values: str | dict[str, float]) -> Float[Array, " v"]:
    coefficients = {values: 1} if isinstance(values, str) else values
    return jnp.array([coefficients.get(name, 0) for name in VALUES], float)
