"""Curvature of the loss components: Hessians, their spectra, and what of a spectrum can be known matrix-free.

Section 3.4 of the training-dynamics paper compares the condition numbers of the Hessians of mean and equivariance
loss on a subset of a model's parameters. All functions here take `equiscale.components.Components`.
"""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from equiscale import lanczos
from equiscale.components import Components, Vector
from equiscale.head_range import Range, head_range
from equiscale.spectrum import Spectrum

MOST_DENSE = 7_000  # parameters up to which a dense spectrum takes minutes
Progress = Callable[[Iterable[int]], Iterable[int]]  # such as tqdm.tqdm


def hessians(
    of: Components,
    vector: Vector | None = None,
    *,
    within: Range | None = None,
    block: int = 16,
    limit: int = MOST_DENSE,
    progress: Progress = iter,
) -> dict[str, Float[np.ndarray, "m m"]]:
    """The Hessians of mean and equivariance loss, dense and symmetric; that of the total is their sum.

    Columns come `block` at a time, so that beside the two matrices memory is that of `block` passes through the
    chosen layers. With `within`, a space outside which both are zero (`equiscale.head_range`), they are in its
    coordinates, m instead of all n.

    Raises ValueError beyond `limit` parameters (or coordinates), and FloatingPointError if the columns do not form a
    symmetric matrix, or the Hessians reach outside the space.
    """
    vector = of.vector if vector is None else vector
    m = of.n if within is None else len(within.kept)
    if m > limit:
        raise ValueError(
            f"two dense Hessians of {m:,} parameters (limit {limit:,}) would take {16 * m**2 / 2**30:.1f} GiB "
            "and long to diagonalise: choose fewer with only=..., use `extremes` or `density`, or raise limit= (--most)"
        )
    block = min(block, m)
    parts = ("mean", "equiv")
    found = {part: np.empty((m, m), of.vector.dtype) for part in parts}
    for first in progress(range(0, m, block)):
        first = min(first, m - block)  # the last block overlaps the one before: one shape, one compilation
        directions = np.zeros((block, m), of.vector.dtype)
        directions[np.arange(block), first + np.arange(block)] = 1
        rows = of.products(vector, directions if within is None else within.lift(directions, of.n), parts)
        for part in parts:
            found[part][first : first + block] = rows[part] if within is None else within.restrict(rows[part])
    if within is not None:
        _check_range(of, vector, within, {part: float(np.abs(found[part]).max(initial=0)) for part in parts})
    return {part: _symmetric(matrix, part) for part, matrix in found.items()}


def _check_range(of: Components, vector: Vector, within: Range, scales: dict[str, float]) -> None:
    """That what lies outside the space is mapped to zero: a random direction, so all of it almost surely."""
    anywhere = np.random.default_rng(0).normal(size=(1, of.n)).astype(of.vector.dtype)
    outside = anywhere - within.lift(within.restrict(anywhere), of.n)
    for part, row in of.products(vector, outside, tuple(scales)).items():
        worst = float(np.abs(row).max())
        if not worst <= 1e3 * of.n * np.finfo(row.dtype).eps * scales[part]:
            raise FloatingPointError(
                f"the Hessian of {part}, with entries up to {scales[part]:.2g}, is not zero outside the given space: a "
                f"direction there gives {worst:.2g}; leave out within="
            )


def spectra(of: Components, vector: Vector | None = None, **settings) -> dict[str, Spectrum]:
    """Of the dense Hessians of mean and equivariance loss, in their range where it is known; settings as `hessians`."""
    found = hessians(of, vector, within=head_range(of, vector), **settings)
    return {part: Spectrum.of(found.pop(part), n=of.n) for part in tuple(found)}


def _symmetric(matrix: np.ndarray, part: str) -> np.ndarray:
    """The symmetric part, in place, block by block (a whole transpose would be a second matrix)."""
    n, worst, scale = len(matrix), 0.0, float(np.abs(matrix).max(initial=0))
    for i in range(0, n, 512):
        for j in range(0, i + 1, 512):
            lower, upper = matrix[i : i + 512, j : j + 512], matrix[j : j + 512, i : i + 512]
            worst = max(worst, float(np.abs(lower - upper.T).max()))
            middle = (lower + upper.T) / 2
            matrix[i : i + 512, j : j + 512], matrix[j : j + 512, i : i + 512] = middle, middle.T
    if not worst <= 1e3 * n * np.finfo(matrix.dtype).eps * scale:
        raise FloatingPointError(
            f"the Hessian of {part} is not symmetric: entries up to {scale:.2g} differ from their mirror image by up "
            f"to {worst:.2g}; does the model draw random numbers, or is it in lower precision inside?"
        )
    return matrix


def extremes(
    of: Components, part: str, *, key: PRNGKeyArray, n_steps: int = 50, vector: Vector | None = None
) -> lanczos.Extremes:
    """Largest and lowest Hessian eigenvalue of "total", "mean" or "equiv", for any number of parameters."""
    data = (of.data, of.vector if vector is None else vector)
    with of.precision():
        return lanczos.extremes(of.hessian[part], of.n, key=key, n_steps=n_steps, dtype=of.vector.dtype, data=data)


def density(
    of: Components,
    part: str,
    *,
    key: PRNGKeyArray,
    n_probes: int = 8,
    n_steps: int = 40,
    vector: Vector | None = None,
    progress: Progress = iter,
) -> lanczos.Density:
    """The spectral density of a component's Hessian, for any number of parameters."""
    data = (of.data, of.vector if vector is None else vector)
    settings = {"key": key, "n_probes": n_probes, "n_steps": n_steps, "dtype": of.vector.dtype, "data": data}
    with of.precision():
        return lanczos.density(of.hessian[part], of.n, progress=progress, **settings)


def gauss_newton(of: Components, vector: Vector | None = None, *, rows: int = 256) -> dict[str, Spectrum]:
    """Spectra of the Gauss-Newton matrices of mean and equiv, which are their Hessians where the model is linear.

    From the singular values of the Jacobians, which have twice as many digits as the eigenvalues of the product:

        H_mean = 2 Jbar^T S Jbar,    H_equiv = 2 sum_k w_k (J_k - Jbar)^T S (J_k - Jbar).

    The Jacobians come `rows` outputs at a time and are folded into a triangular factor (QR), so that memory is that
    of [n_elements rows, n].
    """
    vector = of.vector if vector is None else vector
    entry, weights = np.asarray(of.data.entry), np.asarray(of.data.weights)
    used = np.flatnonzero(entry > 0)
    factors = {part: np.zeros((0, of.n), entry.dtype) for part in ("mean", "equiv")}
    for first in range(0, len(used), rows):
        index = np.resize(used[first : first + rows], rows)  # repeats fill the last block; they weigh 0
        scale = np.sqrt(2 * entry[index]) * (np.arange(rows) < len(used) - first)
        jacobians = of.jacobian_rows(vector, index) * scale[:, None]
        mean = np.tensordot(weights, jacobians, 1)
        apart = np.sqrt(weights)[:, None, None] * (jacobians - mean)
        for part, block in (("mean", mean), ("equiv", apart.reshape(-1, of.n))):
            factors[part] = np.linalg.qr(np.concatenate([factors[part], block]), mode="r")
    return {part: Spectrum.of_squares(_padded(np.linalg.svd(r, compute_uv=False), of.n)) for part, r in factors.items()}


def _padded(values: np.ndarray, n: int) -> np.ndarray:
    return np.pad(values, (0, n - len(values)))
