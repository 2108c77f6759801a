"""Linear fits on latents, scored on molecules that were held out: representations and probes.

Ridge regression in float64 on the host. Latents may have many more features than there are examples: they are first
turned into the coordinates of their own span, in which the same ridge has at most as many features as examples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

RIDGES = tuple(np.logspace(-12, 4, 33))  # penalties relative to the largest squared singular value of the source


class LinearFit(NamedTuple):
    """An affine map of latents z -> offset + (z - centre) left right, and how well it does on held-out molecules.

    `error` is the squared error over the target's variance: 1 for predicting the mean. `error_identity` is that of
    the identity map (of centred latents: what invariance would make perfect), NaN for a probe. `r2` is
    1 - error for each component of the target, `[components]`.
    """

    centre: Float[np.ndarray, " p"]
    left: Float[np.ndarray, "p rank"]
    right: Float[np.ndarray, "rank q"]
    offset: Float[np.ndarray, " q"]
    ridge: float
    error: float
    error_stderr: float
    error_identity: float
    error_identity_stderr: float
    r2: Float[np.ndarray, " q"]
    r2_stderr: Float[np.ndarray, " q"]
    n_train: int  # molecules
    n_held_out: int

    def __call__(self, z: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n q"]:
        return self.offset + self.linear(_flat(z, "latents") - self.centre)

    def linear(self, z: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n q"]:
        """The linear part alone."""
        return z @ self.left @ self.right

    def record(self) -> dict[str, Any]:
        """Plain numbers for a metrics file."""
        names = ["error", "error_stderr", "error_identity", "error_identity_stderr", "ridge", "n_train", "n_held_out"]
        return {name: getattr(self, name) for name in names}


def fit_representation(
    source: Float[np.ndarray, "n ..."],
    target: Float[np.ndarray, "n ..."],
    *,
    key: PRNGKeyArray,
    molecules: Int[np.ndarray, " n"] | None = None,
    held_out: float = 0.2,
    ridge: float | Sequence[float] = RIDGES,
) -> LinearFit:
    """Does any linear map rho(g) carry phi(x), the source, to phi(g x), the target? Ridge regression, both centred.

    The error is on the share `held_out` of molecules, drawn by `key`, with a standard error over them. The penalty is
    chosen from `ridge` by cross-validation in the rest, five-fold by molecule. More features than examples are no
    obstacle to the fit, but to its meaning: what the examples do not span is mapped to 0.

    Raises ValueError for shapes that differ, values not finite, constant latents, or fewer than five molecules.
    """
    if np.shape(source) != np.shape(target):
        raise ValueError(f"source and target must be latents of one shape, got {np.shape(source)}, {np.shape(target)}")
    return _fit(_flat(source, "source"), _flat(target, "target"), key, molecules, held_out, ridge, with_identity=True)


def homomorphism_defect(
    rho_g: LinearFit, rho_h: LinearFit, rho_gh: LinearFit, latents: Float[np.ndarray, "n ..."]
) -> float:
    """|rho(g) rho(h) z - rho(gh) z| / |rho(gh) z| over centred latents z, root mean square of the linear parts.

    0 for a representation; with phi(g h x) = rho(g) rho(h) phi(x), h acts first. Use latents that were not fitted:
    the defect holds the fits' own errors too.
    """
    z = _flat(latents, "latents")
    if len({fit.left.shape[0] for fit in (rho_g, rho_h, rho_gh)} | {z.shape[1]}) > 1:
        raise ValueError(f"the fits must be of latents with {z.shape[1]} components, as these are")
    z = z - z.mean(0)
    both = rho_gh.linear(z)
    return float(np.linalg.norm(rho_g.linear(rho_h.linear(z)) - both) / np.linalg.norm(both))


def probe(
    latents: Float[np.ndarray, "n ..."],
    targets: Float[np.ndarray, "n ..."],
    *,
    key: PRNGKeyArray,
    molecules: Int[np.ndarray, " n"] | None = None,
    held_out: float = 0.2,
    ridge: float | Sequence[float] = RIDGES,
) -> LinearFit:
    """How much of some targets a frozen encoder's latents hold linearly: `r2` on held-out molecules.

    One penalty for all targets, each scaled to unit variance for its choice; split and errors as in
    `fit_representation`. Negative where the fit does worse than the mean. Raises as there, and for constant targets.
    """
    z, y = _flat(latents, "latents"), _flat(targets, "targets")
    if len(z) != len(y):
        raise ValueError(f"{len(z)} latents but {len(y)} targets")
    scale = y.std(0)
    if (scale == 0).any():
        raise ValueError(f"target {int(np.argmin(scale))} is constant: there is nothing to predict")
    fit = _fit(z, y / scale, key, molecules, held_out, ridge, with_identity=False)
    return fit._replace(right=fit.right * scale, offset=fit.offset * scale)


def _fit(x, y, key, molecules, held_out, ridge, *, with_identity: bool) -> LinearFit:
    """Ridge regression of y `[n, q]` on x `[n, p]`: penalty by cross-validation, errors on held-out molecules."""
    ids, index = np.unique(np.arange(len(x)) if molecules is None else np.asarray(molecules), return_inverse=True)
    if len(index) != len(x):
        raise ValueError(f"{len(x)} latents but {len(index)} molecules")
    n_held = max(2, round(held_out * len(ids)))
    n_train = len(ids) - n_held
    if n_train < 3:
        raise ValueError(f"{len(ids)} molecules, {n_held} of them held out, are too few to fit: at least 5 are needed")
    order = host_generator(key).permutation(len(ids))
    fold = np.full(len(ids), -1)
    fold[order[n_held:]] = np.arange(n_train) % 5
    fold = fold[index]
    held, train = fold < 0, fold >= 0

    (x_scores, x_basis), (y_scores, y_basis) = _in_own_span(x), _in_own_span(y)
    ridges = np.atleast_1d(np.asarray(ridge, float))
    if not (ridges > 0).all():
        raise ValueError(f"ridge penalties must be positive, got {ridges.min()}")
    loss = np.zeros(len(ridges))
    for k in range(5 if len(ridges) > 1 else 0):
        if (fold == k).any():
            one = _Ridge(x_scores[train & (fold != k)], y_scores[train & (fold != k)])
            loss += [np.square(one.predict(x_scores[fold == k], r) - y_scores[fold == k]).sum() for r in ridges]
    best = float(ridges[np.argmin(loss)])

    model = _Ridge(x_scores[train], y_scores[train])
    left, right = x_basis.T @ model.v, model.coefficients(best) @ y_basis
    centre, offset = x[train].mean(0), y[train].mean(0)
    moved, spread = x[held] - centre, y[held] - offset
    of_identity = spread - moved if with_identity else np.full_like(spread, np.nan)
    residuals = (spread, spread - moved @ left @ right, of_identity)
    under, over, identity = (_sum_by(index[held], np.square(residual)) for residual in residuals)
    of_components, of_components_stderr = _ratio(over, under)
    error, identity_error = (
        [float(v[0]) for v in _ratio(part.sum(1, keepdims=True), under.sum(1, keepdims=True))]
        for part in (over, identity)
    )
    return LinearFit(
        *(centre, left, right, offset, best, *error, *identity_error),
        *(1 - of_components, of_components_stderr, n_train, n_held),
    )


class _Ridge:
    """Ridge regressions of y on x, both centred, for every penalty from one singular value decomposition."""

    def __init__(self, x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]):
        self.centre, self.offset = x.mean(0), y.mean(0)
        u, self.s, vt = np.linalg.svd(x - self.centre, full_matrices=False)
        if not self.s[0] > 1e-12 * np.linalg.norm(x):  # rounding of the mean alone
            raise ValueError("the latents are constant: there is nothing to fit")
        self.v, self.projected = vt.T, u.T @ (y - self.offset)

    def coefficients(self, ridge: float) -> Float[np.ndarray, "rank q"]:
        """diag(s / (s^2 + ridge s_max^2)) u^T y, the map in the coordinates v."""
        return (self.s / (self.s**2 + ridge * self.s[0] ** 2))[:, None] * self.projected

    def predict(self, x: Float[np.ndarray, "m p"], ridge: float) -> Float[np.ndarray, "m q"]:
        return self.offset + (x - self.centre) @ self.v @ self.coefficients(ridge)


def _in_own_span(a: Float[np.ndarray, "n p"]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates `[n, rank]` and an orthonormal basis `[rank, p]`: a itself unless it has more columns than rows."""
    if a.shape[1] <= len(a):
        return a, np.eye(a.shape[1])
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    return u * s, vt


def _sum_by(index: Int[np.ndarray, " n"], values: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "molecules c"]:
    _, index = np.unique(index, return_inverse=True)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def _ratio(over: Float[np.ndarray, "n c"], under: Float[np.ndarray, "n c"]) -> tuple[np.ndarray, np.ndarray]:
    """The ratio of two sums over molecules, and its standard error by the delta method, for each column."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a component may be constant
        ratio = over.sum(0) / under.sum(0)
        residual = over - ratio * under
        return ratio, np.sqrt(np.square(residual).sum(0) * len(over) / (len(over) - 1)) / under.sum(0)


def _flat(a: Float[np.ndarray, "n ..."], what: str) -> Float[np.ndarray, "n p"]:
    a = np.asarray(a, np.float64)
    a = a.reshape(len(a), -1)
    bad = np.flatnonzero(~np.isfinite(a).all(1))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(a)} rows of {what} are NaN or infinite, the first at index {bad[0]}")
    return a


def host_generator(key: PRNGKeyArray) -> np.random.Generator:
    """The host's random generator for what a JAX key draws there."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
