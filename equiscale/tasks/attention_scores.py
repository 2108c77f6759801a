"""How sharp spherical attention is along training: what its equivariance depends on, beside its points."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale.tasks.task import Score

SPREAD = "logit_spread"  # what spherical attention leaves in the collection "intermediates"


class Spread(NamedTuple):
    """Of a batch: sums over atoms or edges by the path of their attention, and the largest."""

    squares: dict[str, Float[Array, ""]]
    items: dict[str, Float[Array, ""]]
    largest: dict[str, Float[Array, ""]]


def attention_score(model: nn.Module) -> Score:
    """The score "attention" of a model with spherical attention: the standard deviation of its logits over points.

    Its batches are rows with a `graph` and a `weight`.
    """

    def measure(params, rows) -> Spread:
        _, left = model.apply({"params": params}, rows.graph, mutable=["intermediates"])
        real = (rows.weight > 0)[:, None] & rows.graph.is_atom
        squares, items, largest = {}, {}, {}
        for path, found in jax.tree_util.tree_leaves_with_path(left):
            names = [entry.key for entry in path if hasattr(entry, "key")][1:]
            if names[-1] != SPREAD:
                continue
            name = "/".join(names[:-1])
            counted = real if found.ndim == 2 else real[..., None] & rows.graph.mask
            squares[name] = jnp.sum(jnp.where(counted, found**2, 0))
            items[name], largest[name] = jnp.sum(counted), jnp.max(jnp.where(counted, found, 0))
        return Spread(squares, items, largest)

    return Score(measure, attention_record)


def attention_record(batches: Sequence[Spread]) -> dict[str, Any]:
    """`spread`, root mean square over all attention of all layers, and `largest`, before any cap; and by `layers`."""
    names = list(batches[0].squares)
    squares, items = ({n: float(sum(b[i][n] for b in batches)) for n in names} for i in (0, 1))
    return {
        "spread": float(np.sqrt(sum(squares.values()) / sum(items.values()))),
        "largest": float(max(b.largest[n] for b in batches for n in names)),
        "layers": {n.replace("/", "_"): float(np.sqrt(squares[n] / items[n])) for n in names},
    }
