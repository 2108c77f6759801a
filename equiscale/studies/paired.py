"""Arms of a study that were measured on the same validation examples: their losses resampled together.

Which examples are hard is much the same for all arms, so that a ratio of two losses is known better than either of
them. A draw takes as many examples as there are, with repeats and the same of every arm, and moves each arm by the
spread of its seeds, on its own. Seeds may hold out different examples, but those of one seed are the same in all arms;
what their difference adds to the spread of seeds makes intervals wider than they need be. Of arms whose runs left no
losses by example, each is moved by its standard error on its own.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from equiscale.studies.crossings import Interval
from equiscale.studies.figures import Rows, column
from equiscale.training.run_folder import read_examples

DRAWS = 1_000

ByExample = np.ndarray  # total losses [seeds, steps, examples]


def read_losses(folders: Sequence[pathlib.Path], steps: Sequence[int]) -> ByExample | None:
    """Total losses of an arm's runs, padding left out; None where a run has none, or not of as many examples."""
    found = [[read_examples(folder, step) for step in steps] for folder in folders]
    if not found or any(of is None for run in found for of in run):
        return None
    totals = [[of["total"][of["weight"] > 0] for of in run] for run in found]
    if len({len(total) for run in totals for total in run}) > 1:
        return None
    return np.array(totals, np.float64)


def in_pairs(losses: Sequence[ByExample | None]) -> bool:
    """Whether arms have losses of the same number of examples."""
    return None not in (sizes := [None if of is None else of.shape[-1] for of in losses]) and len(set(sizes)) == 1


def draw_losses(arms: Sequence[Rows], losses: Sequence[ByExample | None], seed: int = 0) -> list[np.ndarray]:
    """Of each arm's curve of losses, `DRAWS` that might have been found instead: `[DRAWS, steps]`.

    `losses` are those behind the rows. Examples that are not the same after all are not correlated, and drawing them
    together does no harm. Raises ValueError for losses of another number of steps than an arm has rows.
    """
    for rows, of in zip(arms, losses, strict=True):
        if of is not None and of.shape[1] != len(rows):
            raise ValueError(f"{len(rows)} rows with losses of {of.shape[1]} steps")
    rng = np.random.default_rng(seed)
    moves = rng.standard_normal((len(arms), DRAWS, 1))
    if not in_pairs(losses):
        errors = [column(rows, "total_stderr") for rows in arms]
        curves = [column(rows, "total") for rows in arms]
    else:
        n = losses[0].shape[-1]
        # Deviations are enlarged to have the variance that a standard error has, which divides by n - 1.
        shares = (1 + (n / max(n - 1, 1)) ** 0.5 * (rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) - 1)) / n
        errors = [_between_seeds(of.mean(-1)) for of in losses]
        curves = [shares @ of.mean(0).T for of in losses]
    # In the logarithm, so that losses stay positive.
    levels = [column(rows, "total") for rows in arms]
    return [c * np.exp(z * e / level) for c, z, e, level in zip(curves, moves, errors, levels, strict=True)]


def _between_seeds(totals: np.ndarray) -> np.ndarray:
    """The standard error of the mean `[steps]` of what seeds `[seeds, steps]` found."""
    n = len(totals)
    return totals.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(totals.shape[1])


def ratios(arms: Sequence[Rows], losses: Sequence[ByExample | None]) -> list[Interval]:
    """Row by row, the loss of the first of two arms over that of the second."""
    a, b = draw_losses(arms, losses)
    values = column(arms[0], "total") / column(arms[1], "total")
    return [Interval.of(value, drawn) for value, drawn in zip(values, (a / b).T, strict=True)]
