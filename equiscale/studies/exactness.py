"""How equivariant are spherical networks before they learn anything? By kind, number of layers and of points.

Table 5 of arXiv 2505.23086, with what it lacks: relative to the spread of the outputs over molecules, over several
initialisations and rotations, with standard errors, forces beside energies.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from equiscale import actions
from equiscale.data.graphs import TURNED, Graph
from equiscale.models.spherical_transformer import KINDS, SphericalTransformer
from equiscale.rotations import random_rotation
from equiscale.studies.figures import COLOURS

AT_ONCE = 8  # molecules in memory: messages of attention take S x S numbers for each edge


class Errors(NamedTuple):
    """Of one network. `energy` is mean |f(x) - f(R x)|, `relative` the same over the standard deviation of f over
    molecules; `forces` the norm of R^-1 F(R x) - F(x) over that of F(x), over all atoms.
    """

    energy: float
    relative: float
    forces: float


class Turned(NamedTuple):
    """Of each molecule after each layer: its energy, how far that of the turned one is off, squares of forces and of
    their errors.
    """

    energy: Float[Array, "n layers"]
    off: Float[Array, "n layers"]
    squares: Float[Array, "n layers"]
    squares_off: Float[Array, "n layers"]


@functools.partial(jax.jit, static_argnames=("model", "n_rotations"))
def turned_by_molecule(
    model: SphericalTransformer, params: Any, graph: Graph, keys: Array, *, n_rotations: int
) -> Turned:
    """Each molecule of the graph `[n, ...]` turned by rotations of its own, from its key; means over rotations."""

    def predict(g, one):
        """Energies `[layers]` and forces `[layers, atoms, 3]` of one molecule turned by g."""
        turned = actions.apply(TURNED, g[None], jax.tree.map(lambda a: a[None], one))
        found = model.apply(params, turned, method=SphericalTransformer.after_each_layer)
        return jax.tree.map(lambda *of: jnp.stack(of)[:, 0], *found)

    def both(item):
        one, key = item
        still = predict(jnp.eye(3), one)

        def turned(key):
            g = random_rotation(key)
            again = predict(g, one)
            return again.energy - still.energy, again.forces @ g - still.forces

        off, forces_off = jax.lax.map(turned, jax.random.split(key, n_rotations))
        squares, squares_off = (jnp.square(f).sum((-2, -1)) for f in (still.forces, forces_off))
        return Turned(still.energy, jnp.abs(off).mean(0), squares, squares_off.mean(0))

    return jax.lax.map(both, (graph, keys), batch_size=AT_ONCE)


@functools.partial(jax.jit, static_argnames="model")
def untrained(model: SphericalTransformer, key: Array, graph: Graph) -> Any:
    """Parameters, by one program for all initialisations."""
    return model.init(key, graph)


def errors_by_layer(
    model: SphericalTransformer, graphs: Sequence[Graph], key: Array, *, n_rotations: int
) -> list[Errors]:
    """Of the network that `key` makes, on molecules in buckets of one padded shape each; an entry a layer, of the
    untrained network that ends with it.
    """
    init_key, turn_key = jax.random.split(key)
    params = untrained(model, init_key, jax.tree.map(lambda a: a[:1], graphs[0]))
    found = []
    for i, graph in enumerate(graphs):
        keys = jax.random.split(jax.random.fold_in(turn_key, i), len(graph.species))
        found.append(jax.device_get(turned_by_molecule(model, params, graph, keys, n_rotations=n_rotations)))
    of = Turned(*map(np.concatenate, zip(*found, strict=True)))
    off = of.off.mean(0)
    forces = np.sqrt(of.squares_off.sum(0) / of.squares.sum(0))
    return [Errors(*map(float, of_layer)) for of_layer in zip(off, off / of.energy.std(0), forces, strict=True)]


def measure(
    kinds: Sequence[str],
    layers: Sequence[int],
    points: Sequence[int],
    graphs: Sequence[Graph],
    *,
    n_inits: int,
    n_rotations: int,
    skip: Callable[[dict[str, Any]], bool] = lambda row: False,
    progress: Callable[[Sequence], Iterable] = iter,
    **fields: Any,
) -> Iterator[dict[str, Any]]:
    """One row for each kind, number of layers and of points (one for kinds without): means over initialisations.

    The deepest network of a kind gives the rows of all numbers of layers. `graphs` are buckets of molecules; `fields`
    those of `SphericalTransformer`; rows that `skip` wants, as far as they are known before, are left out. Raises
    ValueError for an unknown kind, and for points that no rule of the kind has.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is none of {', '.join(KINDS)}")
    networks = {}
    for kind in kinds:
        for s in points:
            model = SphericalTransformer(**KINDS[kind] | {"points": s, "turned": False} | fields)
            model.check()
            known = {"network": kind, "points": s if model.is_sampled else 0}
            rows = [known | {"layers": n} for n in layers]
            if missing := [row for row in rows if not skip(row)]:
                deepest = max(row["layers"] for row in missing)
                networks[tuple(known.values())] = model.clone(n_layers=deepest), missing
    for model, rows in progress(list(networks.values())):
        keys = jax.random.split(jax.random.key(0), n_inits)
        found = np.array([errors_by_layer(model, graphs, key, n_rotations=n_rotations) for key in keys])
        for row in rows:
            for field, values in Errors(*found[:, row["layers"] - 1].T)._asdict().items():
                row |= {field: float(values.mean()), f"{field}_stderr": float(values.std(ddof=1) / n_inits**0.5)}
            yield row


def figure(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Errors of energies and of forces against layers: a colour for each kind, lighter for fewer points."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    kinds = list(dict.fromkeys(row["network"] for row in rows))
    sizes = sorted({row["points"] for row in rows if row["points"]})
    for ax, field, what in zip(
        figure.subplots(1, 2), ("relative", "forces"), ("energies, over their spread", "forces"), strict=True
    ):
        for kind, colour in zip(kinds, COLOURS, strict=False):
            for s in sorted({row["points"] for row in rows if row["network"] == kind}):
                of = [row for row in rows if (row["network"], row["points"]) == (kind, s)]
                x, y, error = (np.array([row[key] for row in of]) for key in ("layers", field, f"{field}_stderr"))
                label = f"{kind}, {s} points" if s else kind
                alpha = (1 + sizes.index(s)) / len(sizes) if s else 1.0
                bars = np.minimum(2 * error, 0.9 * y), 2 * error
                ax.errorbar(x, y, yerr=bars, fmt="o-", color=colour, alpha=alpha, markersize=4, label=label)
        ax.set_yscale("log")
        ax.set_xlabel("layers")
        ax.set_ylabel(f"relative equivariance error of {what}")
        ax.grid(alpha=0.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(title + "; untrained, bars: two standard errors over initialisations", fontsize=10)
    return figure
