"""The force head's theory along training: its loss without a rotation, Theorem 4's bounds, its conditioning.

All of it follows from the moments M_i of the validation atoms, one pass of the model (`equiscale.force_algebra`). They
are summed in float64: the conditioning is beyond float32.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from equiscale import force_algebra
from equiscale.decomposition import Decomposition
from equiscale.force_algebra import HeadSums
from equiscale.models.graph_transformer import GraphTransformer
from equiscale.spectrum import Spectrum
from equiscale.tasks.force_sets import LabelledGraphs
from equiscale.tasks.task import Score


class HeadBatch(NamedTuple):
    """A batch's decomposition in closed form, and what the head's sums are made of."""

    decomposition: Decomposition
    moments: Float[Array, "batch atoms 3 h"]
    target: Float[Array, "batch atoms 3"]
    atom_weight: Float[Array, "batch atoms"]  # so that frames count alike, as in the decomposition
    weight: Float[Array, "3 h"]


def head_score(model: GraphTransformer) -> Score:
    """The score "head" of a model with direct forces."""

    def measure(params, rows: LabelledGraphs) -> HeadBatch:
        moments, weight = model.apply({"params": params}, rows.graph, method="force_moments")
        found = force_algebra.decompose(moments, weight, rows.forces, mask=rows.counted, example_weight=rows.weight)
        share = rows.counted / jnp.maximum(rows.counted.sum(1, keepdims=True), 1)
        return HeadBatch(found, moments, rows.forces, rows.weight[:, None] * share, weight)

    return Score(measure, head_record)


def head_record(batches: Sequence[HeadBatch]) -> dict[str, Any]:
    """Plain numbers for one row of a metrics file.

    `total`, `mean`, `equiv` and `percent` are those of the exact average over SO(3), `percent_stderr` over examples.
    `lowest` and `highest` bound equiv over `deviation`, |w_perp|^2 (Theorem 4), and `effective` is that ratio;
    `lowest_is_noise` where float32 moments do not give it. `share_of_largest` is the largest eigenvalue of G over its
    trace: how much of a deviation one direction of the latent feels. `purity` is |grad equiv| over |grad mean| with
    respect to the head (Eqs. 10 to 13).
    """
    decomposition = functools.reduce(operator.add, (batch.decomposition for batch in batches))
    sums = sum(HeadSums.in_float64(batch.moments, batch.target, batch.atom_weight) for batch in batches)
    weight = np.asarray(batches[-1].weight, np.float64)
    with jax.enable_x64(True):
        bounds = force_algebra.bounds(sums, weight)
        slopes = {part: float(jnp.linalg.norm(g)) for part, g in force_algebra.gradients(sums, weight).items()}
    values = np.linalg.eigvalsh(np.asarray(sums.mean_gram))
    spectrum = Spectrum.known(values, np.finfo(batches[-1].moments.dtype).eps)
    return {
        **{name: float(getattr(decomposition, name)) for name in ("total", "mean", "equiv", "percent")},
        "percent_stderr": float(decomposition.percent_stderr),
        "lowest": bounds.lowest,
        "highest": bounds.highest,
        "deviation": bounds.deviation,
        "effective": bounds.effective if bounds.deviation > 0 else None,
        "bounds_hold": bounds.hold,
        "lowest_is_noise": bool(spectrum.condition_is_noise),
        "share_of_largest": float(values[-1] / values.sum()),
        "purity": slopes["equiv"] / slopes["mean"] if slopes["mean"] > 0 else None,
    }
