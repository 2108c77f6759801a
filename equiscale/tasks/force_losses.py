"""What force fields are trained on, and how well they do: losses and errors of standardised predictions.

Padding and atoms that were held in place count nowhere.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from equiscale.data.element_references import Scale
from equiscale.models.force_head import Prediction
from equiscale.reduce import Moments
from equiscale.tasks.force_sets import LabelledGraphs

Loss = Callable[[Prediction, LabelledGraphs], tuple[Float[Array, ""], Float[Array, ""]]]


def published(prediction: Prediction, rows: LabelledGraphs) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Of energies, their mean absolute error; of forces, the mean over all atoms of the Euclidean norm of the error.

    EScAIP's recipe weighs them 4 and 100. Large errors, and the few atoms that have them, pull less than in `squares`.
    """
    error = jnp.where(rows.counted[..., None], prediction.forces - rows.forces, 0)
    # A norm's slope at zero is not finite, and padding is there.
    norm = jnp.sqrt(jnp.where(rows.counted, jnp.square(error).sum(-1), 1))
    norms = jnp.where(rows.counted, norm, 0).sum() / jnp.maximum(rows.counted.sum(), 1)
    return jnp.abs(prediction.energy - rows.energies).mean(), norms


def squares(prediction: Prediction, rows: LabelledGraphs) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean squares; of forces per component of each frame, averaged over frames, as the decomposition has it."""
    error = jnp.where(rows.counted[..., None], prediction.forces - rows.forces, 0)
    of_frames = jnp.square(error).sum((1, 2)) / jnp.maximum(3 * rows.counted.sum(1), 1)
    return jnp.square(prediction.energy - rows.energies).mean(), of_frames.mean()


LOSSES: dict[str, Loss] = {"published": published, "squares": squares}


VALUES = ("frames", "energy", "per_atom", "atoms", "components", "norms", "agreement")


def error_moments(prediction: Prediction, rows: LabelledGraphs, scale: Scale) -> Moments:
    """Sums of each frame from which `error_record` makes its numbers; those of batches add up."""
    real = rows.counted
    error = jnp.where(real[..., None], prediction.forces - rows.forces, 0)
    of_energy = scale.std * jnp.abs(prediction.energy - rows.energies)

    def length(x):
        return jnp.sqrt(jnp.square(x).sum(-1))

    cosine = (prediction.forces * rows.forces).sum(-1) / jnp.maximum(
        length(prediction.forces) * length(rows.forces), 1e-12
    )
    values = {
        "frames": jnp.ones_like(of_energy),
        "energy": of_energy,
        "per_atom": of_energy / jnp.maximum(rows.graph.is_atom.sum(1), 1),
        "atoms": real.sum(1),
        "components": scale.force_std * jnp.abs(error).sum((1, 2)) / 3,
        "norms": scale.force_std * jnp.where(real, length(error), 0).sum(1),
        "agreement": jnp.where(real, cosine, 0).sum(1),
    }
    stacked = rows.weight[:, None] * jnp.stack([values[name] for name in VALUES], axis=-1)
    return Moments.of(stacked, rows.weight > 0)


STATISTICS: dict[str, tuple[str, str]] = {
    "force_mae": ("components", "atoms"),
    "force_l2": ("norms", "atoms"),
    "force_cosine": ("agreement", "atoms"),
    "energy_mae": ("energy", "frames"),
    "energy_per_atom_mae": ("per_atom", "frames"),
}


def error_record(batches: Sequence[Moments]) -> dict[str, Any]:
    """Plain numbers, each with its standard error over frames, `..._stderr`.

    `force_mae` per component and `force_l2` per atom in eV/angstrom, `force_cosine` between predicted and true force,
    `energy_mae` in eV per frame and `energy_per_atom_mae` per atom of it. Forces are averaged over atoms.
    """
    moments = functools.reduce(operator.add, batches)
    one = {name: jnp.eye(len(VALUES))[i] for i, name in enumerate(VALUES)}
    found: dict[str, Any] = {}
    for name, (over, under) in STATISTICS.items():
        found[name] = float(moments.ratio(one[over], one[under]))
        found[f"{name}_stderr"] = float(moments.ratio_stderr(one[over], one[under]))
    return found
