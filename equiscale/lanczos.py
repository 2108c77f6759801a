"""Lanczos: extreme eigenvalues and the spectral density of a matrix known by its products with vectors.

With full reorthogonalisation, and a fresh direction wherever the Krylov space is exhausted, as it soon is for the
rank-deficient Hessians of a model's last layers.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Product = Callable[..., Float[Array, " n"]]  # (*data, vector) -> matrix times vector


class Tridiagonal(NamedTuple):
    """V A V^T for an orthonormal basis V of m Krylov vectors: its diagonals, on the host."""

    diagonal: Float[np.ndarray, " m"]
    beside: Float[np.ndarray, " m"]  # the last one leads out of the space: it bounds what is missing

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values, ascending; a bound of each on its distance to an eigenvalue; squared overlaps with the start."""
        inner = self.beside[:-1]
        values, vectors = np.linalg.eigh(np.diag(self.diagonal) + np.diag(inner, 1) + np.diag(inner, -1))
        return values, np.abs(self.beside[-1] * vectors[-1]), vectors[0] ** 2


class Extremes(NamedTuple):
    """Largest and lowest eigenvalue (the lowest is the most negative one), each with a bound on its error."""

    largest: float
    largest_error: float
    lowest: float
    lowest_error: float
    n_products: int


class Density(NamedTuple):
    """A spectral density from `n_probes` random vectors (stochastic Lanczos quadrature): nodes and weights of each."""

    nodes: Float[np.ndarray, "n_probes m"]
    weights: Float[np.ndarray, "n_probes m"]  # sum to 1 for each probe
    n: int  # eigenvalues there are

    def mean_of(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """The average of a function of the eigenvalues, and its standard error over probes (NaN for one probe)."""
        per_probe = (self.weights * function(self.nodes)).sum(-1)
        n = len(per_probe)
        return float(per_probe.mean()), float(per_probe.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")

    @property
    def trace(self) -> tuple[float, float]:
        """With its standard error."""
        mean, error = self.mean_of(lambda x: x)
        return self.n * mean, self.n * error

    @property
    def effective_rank(self) -> float:
        """(sum |l|)^2 / sum l^2, as `Spectrum.effective_rank`."""
        return self.n * self.mean_of(np.abs)[0] ** 2 / self.mean_of(np.square)[0]

    def share_above(self, thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
        """The share of eigenvalues above each threshold, averaged over probes."""
        above = self.nodes[..., None] > np.asarray(thresholds)
        return (self.weights[..., None] * above).sum(1).mean(0)


def tridiagonalise(
    product: Product, start: Float[Array, " n"], n_steps: int, *, key: PRNGKeyArray, data: tuple = ()
) -> Tridiagonal:
    """`n_steps` of Lanczos from a start vector (fewer if n is smaller). `data` are arrays that `product` takes first.

    The basis stays on the device, `[n_steps + 1, n]`. Raises FloatingPointError when a product is not finite.
    """
    n = start.size
    n_steps = min(n_steps, n)
    basis = jnp.zeros((n_steps + 1, n), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    scale, rows = jnp.zeros((), start.dtype), []
    for i in range(n_steps):
        basis, scale, row = _step(product, data, basis, scale, jnp.asarray(i), jax.random.fold_in(key, i))
        rows.append(row)
    diagonal, beside = np.asarray(jnp.stack(rows), np.float64).T
    if not np.isfinite(diagonal).all():
        first = int((~np.isfinite(diagonal)).argmax())
        raise FloatingPointError(f"the matrix times a vector is not finite, first at Lanczos step {first}")
    return Tridiagonal(diagonal, beside)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(product, data, basis, scale, i, key):
    precise = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def orthogonal(w):  # twice is enough (Kahan)
        for _ in range(2):
            w = w - precise(precise(basis, w), basis)
        return w

    w = product(*data, basis[i])
    diagonal = jnp.vdot(w, basis[i], precision=jax.lax.Precision.HIGHEST)
    w = orthogonal(w)
    beside = jnp.linalg.norm(w)
    scale = jnp.maximum(scale, jnp.abs(diagonal) + beside)
    exhausted = beside <= 10 * jnp.finfo(w.dtype).eps * jnp.sqrt(w.size) * scale
    fresh = orthogonal(jax.random.normal(key, w.shape, w.dtype))
    w = jnp.where(exhausted, fresh / jnp.linalg.norm(fresh), w / jnp.where(exhausted, 1, beside))
    return basis.at[i + 1].set(w), scale, jnp.stack([diagonal, jnp.where(exhausted, 0, beside)])


def extremes(
    product: Product, n: int, *, key: PRNGKeyArray, n_steps: int = 50, dtype: Any = None, data: tuple = ()
) -> Extremes:
    """Both ends of the spectrum from a random start.

    Lanczos converges to well-separated ends first: trust a value as far as its error bound says. It does not find the
    smallest *positive* eigenvalue of a matrix of high condition number; only a full-length run does.
    """
    start_key, step_key = jax.random.split(key)
    start = jax.random.normal(start_key, (n,), dtype or jnp.result_type(float))
    values, errors, _ = tridiagonalise(product, start, n_steps, key=step_key, data=data).ritz()
    return Extremes(float(values[-1]), float(errors[-1]), float(values[0]), float(errors[0]), min(n_steps, n))


def density(
    product: Product,
    n: int,
    *,
    key: PRNGKeyArray,
    n_probes: int = 8,
    n_steps: int = 40,
    dtype: Any = None,
    data: tuple = (),
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Density:
    """The spectral density by stochastic Lanczos quadrature: Gauss quadratures of `n_probes` random vectors.

    Exact for polynomials of degree 2 n_steps - 1 of each probe; over probes the error falls as 1 / sqrt(n n_probes).
    """
    nodes, weights = [], []
    for i in progress(range(n_probes)):
        start_key, step_key = jax.random.split(jax.random.fold_in(key, i))
        start = jax.random.rademacher(start_key, (n,), dtype or jnp.result_type(float))
        values, _, overlaps = tridiagonalise(product, start, n_steps, key=step_key, data=data).ritz()
        nodes.append(values)
        weights.append(overlaps)
    return Density(np.stack(nodes), np.stack(weights), n)
