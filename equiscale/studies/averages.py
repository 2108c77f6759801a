"""One number of several runs that differ in their seed, with its standard error."""

from collections.abc import Sequence

import numpy as np


def over_seeds(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of what runs of different seeds measured; runs that have no value (NaN) are left out.

    Its square is that over validation examples, which seeds may share and so do not lower, plus the variance between
    seeds over their number. NaN where no run has a value.
    """
    values, errors = np.asarray(values, float), np.asarray(errors, float)
    known = np.isfinite(values)
    values, errors = values[known], errors[known]
    if not len(values):
        return float("nan"), float("nan")
    between = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
    return float(values.mean()), float(np.sqrt(np.mean(errors**2) + between))
