"""The decomposition as plain float64 NumPy loops, straight from the formulas: what the package is held against."""

import numpy as np


def decompose(twisted, y, weights=None):
    """Per example, for twisted predictions `[n_units, unit_size, batch, ...]` and targets `[batch, ...]`.

    Returns total, plug-in mean and equiv, and the unbiased mean (the average of <c_a - y, c_b - y> / D over pairs of
    different unit means) with equiv = total - mean; the latter two are None for a single unit.
    """
    z = np.asarray(twisted, np.float64)
    y = np.asarray(y, np.float64)
    m, h, n = z.shape[:3]
    w = np.full(h, 1 / h) if weights is None else np.asarray(weights, np.float64)
    out = {name: np.zeros(n) for name in ("total", "mean", "equiv", "unbiased_mean", "unbiased_equiv")}
    for i in range(n):
        zi = z[:, :, i].reshape(m, h, -1)
        yi = y[i].ravel()
        units = np.einsum("h,ahd->ad", w, zi)
        mu = units.mean(0)
        out["total"][i] = sum(w[k] * np.mean((zi[a, k] - yi) ** 2) for a in range(m) for k in range(h)) / m
        out["mean"][i] = np.mean((mu - yi) ** 2)
        out["equiv"][i] = sum(w[k] * np.mean((zi[a, k] - mu) ** 2) for a in range(m) for k in range(h)) / m
        if m > 1:
            pairs = [np.mean((units[a] - yi) * (units[b] - yi)) for a in range(m) for b in range(m) if a != b]
            out["unbiased_mean"][i] = np.mean(pairs)
            out["unbiased_equiv"][i] = out["total"][i] - out["unbiased_mean"][i]
    return out
