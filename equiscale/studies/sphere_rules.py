"""Which points on the sphere? The equivariance error of point-wise operations by rule, number of points and degree.

Three operations of untrained networks on random features, in float64: a SiLU at every point; spherical attention as
published, with a layer norm at every point; and attention with norms of coefficients. Attention at several spreads of
its logits, since sharpness is what quadrature fails on.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from equiscale.models.spherical_attention import SphericalAttention
from equiscale.sphere import rules
from equiscale.sphere.errors import equivariance_error
from equiscale.sphere.transform import Sphere, from_points, make_sphere, to_points
from equiscale.studies.figures import COLOURS


class Choice(NamedTuple):
    """A rule with the inverse of its transform, and whether its softmax is weighted."""

    kind: str
    inverse: str = "least_squares"
    weighted: bool = True


# What is compared, by the name it has in tables.
CHOICES = {
    "Fibonacci with poles (released)": Choice("fibonacci_poles", "columns"),
    "Fibonacci (paper)": Choice("fibonacci", "columns"),
    "Fibonacci, least squares": Choice("fibonacci"),
    "spherical design": Choice("design"),
    "Lebedev": Choice("lebedev"),
    "Gauss-Legendre": Choice("gauss_legendre"),
    "e3nn grid": Choice("e3nn"),
    "e3nn grid, unweighted softmax": Choice("e3nn", weighted=False),
}
NORMS = {"attention, published norm": "points", "attention, norm of coefficients": "coefficients"}
SILU = "SiLU"
WITHIN = 1e-3  # the error that `smallest` asks for


@functools.partial(jax.jit, static_argnames=("name", "weighted", "degree", "channels", "n", "rotations"))
def error_of(
    sphere: Sphere, sharpness: float, *, name: str, weighted: bool, degree: int, channels: int, n: int, rotations: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`equivariance_error` of SiLU or of one of NORMS, with queries and keys times `sharpness`; one program a shape."""
    if name == SILU:

        def operation(x):
            return from_points(sphere, nn.silu(to_points(sphere, x)))

    else:
        attention = SphericalAttention(sphere, norm=NORMS[name], weighted=weighted, spread=None)
        params = attention.init(jax.random.key(0), jnp.zeros((1, (degree + 1) ** 2, channels)))["params"]
        params |= {part: jax.tree.map(lambda a: sharpness * a, params[part]) for part in ("query", "key")}

        def operation(x):
            return from_points(sphere, attention.apply({"params": params}, x))

    return equivariance_error(
        operation, degree=degree, channels=channels, n=n, rotations=rotations, key=jax.random.key(1)
    )


def measure(
    degrees: Sequence[int],
    sizes: Sequence[int],
    sharpness: Sequence[float] = (1.0,),
    *,
    channels: int = 32,
    n: int = 8,
    rotations: int = 8,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[dict[str, Any]]:
    """One row for each rule, degree, number of points and operation.

    Of kinds that have not every number of points it is the largest that fits; kinds that have none, or none with an
    inverse, are left out. Raises ValueError where that leaves nothing.
    """
    todo = [(degree, size, name) for degree in degrees for size in sizes for name in CHOICES]
    rows = []
    for degree, size, name in progress(todo):
        choice = CHOICES[name]
        sphere = _largest(choice, size, degree)
        if sphere is None:
            continue
        operations = [(SILU, 1.0), *((op, sharp) for op in NORMS for sharp in sharpness)]
        for op, sharp in operations if choice.weighted else operations[1:]:
            settings = {"degree": degree, "channels": channels, "n": n, "rotations": rotations}
            with jax.enable_x64(True):
                error, stderr = error_of(sphere, sharp, name=op, weighted=choice.weighted, **settings)
            row = {"rule": name, "degree": degree, "points": len(sphere.points), "asked": size, "operation": op}
            rows.append(row | {"sharpness": sharp, "error": float(error), "stderr": float(stderr)})
    if not rows:
        raise ValueError(f"no rule of at most {max(sizes)} points has an inverse at degrees {list(degrees)}: give more")
    return rows


def _largest(choice: Choice, size: int, degree: int) -> Sphere | None:
    for smaller in reversed(rules.sizes(choice.kind, most=size)):
        try:
            return make_sphere(rules.rule(choice.kind, smaller), degree, choice.inverse)
        except ValueError:  # this one has no such inverse
            if smaller < (degree + 1) ** 2:
                return None
    return None


def smallest(
    rows: Sequence[dict[str, Any]], operation: str, within: float = WITHIN
) -> dict[tuple[int, str], int | None]:
    """By degree and rule the fewest points measured whose error is within a bound, None where none is; untouched
    sharpness.
    """
    found: dict[tuple[int, str], int | None] = {}
    for row in rows:
        if row["operation"] != operation or row["sharpness"] != 1:
            continue
        key = row["degree"], row["rule"]
        good = row["error"] < within and (found.get(key) is None or row["points"] < found[key])
        found[key] = row["points"] if good else found.get(key)
    return found


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Error against points, a column for each degree and a row for each operation; and against sharpness, if varied."""
    degrees = sorted({row["degree"] for row in rows})
    operations = [SILU, *NORMS]
    sharp = sorted({row["sharpness"] for row in rows})
    n_columns = len(degrees) + (len(sharp) > 1)
    figure = Figure(figsize=(4.2 * n_columns, 9), layout="constrained")
    panels = figure.subplots(len(operations), n_columns, squeeze=False, sharey=True)
    colour = dict(zip(CHOICES, COLOURS * 2, strict=False))
    for line, operation in zip(panels, operations, strict=True):
        for ax, degree in zip(line, degrees, strict=False):
            of = [r for r in rows if r["operation"] == operation and r["degree"] == degree and r["sharpness"] == 1]
            _lines(ax, of, "points", colour)
            ax.set_title(f"{operation}, L = {degree}", fontsize=9)
            ax.set_xlabel("points")
        line[0].set_ylabel("relative equivariance error")
        if len(sharp) > 1:
            most = max(r["asked"] for r in rows)
            of = [r for r in rows if r["operation"] == operation and r["degree"] == degrees[0] and r["asked"] == most]
            _lines(line[-1], of, "sharpness", colour)
            line[-1].set_title(f"{operation}, L = {degrees[0]}, {most} points", fontsize=9)
            line[-1].set_xlabel("queries and keys times")
    handles, names = panels[1][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle("Equivariance error of point-wise operations on the sphere; bars: two standard errors", fontsize=10)
    return figure


def _lines(ax, rows: Sequence[dict[str, Any]], along: str, colour: dict[str, str]) -> None:
    for name in dict.fromkeys(row["rule"] for row in rows):
        of = sorted((row for row in rows if row["rule"] == name), key=lambda row: row[along])
        x, error, stderr = (np.array([row[key] for row in of]) for key in (along, "error", "stderr"))
        dashes = "--" if name.endswith("softmax") else "-"
        ax.errorbar(x, error, yerr=2 * stderr, fmt="o", linestyle=dashes, markersize=4, color=colour[name], label=name)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.grid(alpha=0.25)
