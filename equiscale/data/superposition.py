"""The rotations that bring structures nearest to others."""

import numpy as np


def turns(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Proper rotations [m, 3, 3] that bring centred `second` [m, n, 3] nearest to `first`, as `second @ turn` (Kabsch).

    With `weights` [m, n] the squared distances are weighted, and so must the centres be.
    """
    weighted = second if weights is None else second * weights[:, :, None]
    u, _, v = np.linalg.svd(np.swapaxes(weighted, 1, 2) @ first)
    u[:, :, 2] *= np.linalg.det(u @ v)[:, None]  # the weakest direction turns over, where a reflection would be nearer
    return u @ v
