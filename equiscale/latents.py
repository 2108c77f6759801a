"""Do latents turn with the input? Cosines, a fitted representation, linear probes (section 3.5 and D.3).

Of an encoder phi and a group element g three questions, each weaker than the one before:

    is phi(g x) = g phi(x) for a given action on latents?      `latent_cosines(..., act_latent=grid)`
    is phi(g x) = phi(x)?                                      `latent_cosines(..., pool=True)`
    is phi(g x) = rho(g) phi(x) for any linear map rho(g)?     `fit_representation`, `homomorphism_defect`

The paper's similarity cos(pool phi(g x), g pool phi(x)) is the second: nothing is left of a pooled grid to turn. Raw
cosines are high for anything that shares an offset (activations of one sign), so each comes centred as well, the mean
latent subtracted, and beside the cosines of different molecules.

Latents stay on the accelerator batch by batch; statistics are in float64 on the host. Everything random has a key,
everything uncertain an error over molecules: conformers of one molecule (`molecules`) never straddle a split.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from equiscale import actions
from equiscale.linear_fits import LinearFit, fit_representation, homomorphism_defect, host_generator, probe
from equiscale.rotations import infinitesimal_rotations

__all__ = [
    "Cosines",
    "LatentCosines",
    "LinearFit",
    "encode",
    "fit_representation",
    "homomorphism_defect",
    "latent_cosines",
    "probe",
    "rotations_by_axis",
]

Encoder = Callable[[Any], Float[Array, "batch ..."]]
N_RESAMPLED = 200  # bootstrap samples: the standard error itself is then known to 5 %


def rotations_by_axis(degrees: Sequence[float] = (90, 180, 270), axes: str = "xyz") -> dict[str, np.ndarray]:
    """Rotations `[3, 3]` about coordinate axes, named "x 90°"; quarter turns are exact, so that `grid` takes them."""
    table = {}
    for axis in axes:
        k = infinitesimal_rotations()["xyz".index(axis)]
        for angle in degrees:
            r = np.eye(3) + np.sin(np.deg2rad(angle)) * k + (1 - np.cos(np.deg2rad(angle))) * k @ k
            table[f"{axis} {angle:g}°"] = np.rint(r) if angle % 90 == 0 else r
    return table


# --- cosines ---------------------------------------------------------------------------------------------------


class Cosines(NamedTuple):
    """Cosines of latents of the same example, `[n]` for each element, and of different molecules; NaN for no length."""

    same: dict[str, Float[np.ndarray, " n"]]
    different: Float[np.ndarray, " pairs"]


class LatentCosines(NamedTuple):
    """What `latent_cosines` measured; `record` sums it up."""

    test: str  # "equivariance" or "invariance"
    raw: Cosines
    centred: Cosines
    molecules: Int[np.ndarray, " n"]
    pairs: Int[np.ndarray, "pairs 2"]  # of examples, by position
    n_undefined: int  # cosines of a latent without length, left out

    def record(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Medians, quantiles and effect sizes by element, and over "all" of them: plain numbers for a metrics file.

        `auc` is the probability that a cosine of the same example exceeds one of different molecules (ties half):
        1/2 for no effect. Its standard error is a bootstrap over molecules drawn by `key`, in which a pair counts
        as often as both its molecules do.
        """
        _, index = np.unique(self.molecules, return_inverse=True)
        n = index.max() + 1
        drawn = host_generator(key).multinomial(n, np.full(n, 1 / n), N_RESAMPLED)
        counts = np.concatenate([np.ones((1, n)), drawn])[:, index]  # the sample itself first
        of_pairs = counts[:, self.pairs[:, 0]] * counts[:, self.pairs[:, 1]]

        def summary(cosines):
            rows = {"different": _quantiles(cosines.different)}
            for name, same in {**cosines.same, "all": np.concatenate(list(cosines.same.values()))}.items():
                weights = np.tile(counts, len(cosines.same)) if name == "all" else counts
                auc = _auc(same, cosines.different, weights, of_pairs)
                rows[name] = _quantiles(same) | {"auc": float(auc[0]), "auc_stderr": float(np.nanstd(auc[1:]))}
            return rows

        about = {"test": self.test, "n_molecules": int(n), "n_undefined": self.n_undefined}
        return about | {"raw": summary(self.raw), "centred": summary(self.centred)}


def latent_cosines(
    phi: Encoder,
    act_in: Any,
    x: Any,
    elements: Mapping[str, Any],
    *,
    key: PRNGKeyArray,
    act_latent: actions.Action = actions.trivial,
    pool: bool = False,
    n_pairs: int | None = None,
    weight: Float[Array, " n"] | None = None,
    molecules: Int[Array, " n"] | None = None,
    batch_size: int | None = None,
) -> LatentCosines:
    """Cosines between g phi(x) and phi(g x), and between phi(x_i) and phi(x_j) of different molecules (D.3).

    Args:
      phi: a batch to latents `[batch, ...]`, jittable (see `equiscale.capture`).
      act_in: the action, or pytree of actions, on x (not `segmented`).
      x: a pytree of `[n, ...]`.
      elements: named group elements, e.g. `rotations_by_axis()`.
      key: draws the pairs of different molecules.
      act_latent: the action on one example's latent: `grid` for channels first, `[c, l, l, l]`. `trivial` (the
        default) makes this a test of invariance.
      pool: average latents over their last three axes before anything else; always a test of invariance.
      n_pairs: pairs of different molecules (default: as many as examples).
      weight: `[n]`; examples of weight 0 are padding and left out, other values count the same.
      molecules: `[n]`, which molecule each example is of (default: each its own).
      batch_size: examples encoded at once (default: all). Two passes over phi: one for the mean, one for cosines.

    The centre is the mean of all latents phi(x) and phi(g x). Raises ValueError for latents that are not finite, do
    not keep the batch axis or are changed in shape by the action, and for fewer than two molecules.
    """
    if not elements:
        raise ValueError("no group elements: pass e.g. elements=rotations_by_axis()")
    if pool and act_latent is not actions.trivial:
        raise ValueError("pooled latents have no grid left to act on: pass act_latent or pool=True, not both")
    n = jax.tree.leaves(x)[0].shape[0]
    kept = np.arange(n) if weight is None else np.flatnonzero(np.asarray(weight) > 0)
    molecules = (np.arange(n) if molecules is None else np.asarray(molecules))[kept]
    pairs = _different(molecules, n_pairs or len(kept), host_generator(key))
    x = jax.tree.map(lambda leaf: np.asarray(leaf)[kept], x)
    for g in elements.values():  # tried while its value is known: grid refuses what it cannot turn by
        jax.eval_shape(lambda x, g=g: actions.apply(act_in, g, x, shared=True), x)

    def latents(x):
        z = phi(x)
        if pool and z.ndim < 5:
            raise ValueError(f"pool averages the last three axes of [batch, c, l, l, l], got shape {list(z.shape)}")
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        return z.mean((-3, -2, -1)) if pool else z

    @jax.jit
    def turned(g, x):
        return latents(actions.apply(act_in, g, x, shared=True))

    @jax.jit
    def compare(a, b, centre):
        return {"raw": _cosine(a, b), "centred": _cosine(a - centre, b - centre)}

    @jax.jit
    def compare_turned(g, centre, x_and_z):
        x, z = x_and_z
        acted = actions.apply(act_latent, g, z, shared=True, what="latent")
        if acted.shape != z.shape:
            raise ValueError(f"act_latent changed latents of shape {list(z.shape)} to {list(acted.shape)}")
        return compare(acted, turned(g, x), centre)

    plain = encode(latents, x, batch_size=batch_size)
    sums = [plain.sum(0, dtype=float)]
    for g in elements.values():
        sums.append(_checked(_by_batches(functools.partial(turned, g), x, batch_size), len(kept)).sum(0, dtype=float))
    centre = (sum(sums) / (len(sums) * len(kept))).astype(plain.dtype)
    same = {
        name: _by_batches(functools.partial(compare_turned, g, centre), (x, plain), batch_size)
        for name, g in elements.items()
    }
    different = _by_batches(lambda p: compare(*p, centre), (plain[pairs[:, 0]], plain[pairs[:, 1]]), batch_size)
    raw, centred = (
        Cosines({name: values[kind] for name, values in same.items()}, different[kind]) for kind in ("raw", "centred")
    )
    test = "invariance" if act_latent is actions.trivial else "equivariance"
    n_undefined = sum(int(np.isnan(values).sum()) for values in jax.tree.leaves((raw, centred)))
    return LatentCosines(test, raw, centred, molecules, pairs, n_undefined)


def encode(phi: Encoder, x: Any, *, batch_size: int | None = None) -> Float[np.ndarray, "n ..."]:
    """phi(x) on the host, `batch_size` examples at a time (default: all). Raises ValueError as `latent_cosines`."""
    return _checked(_by_batches(jax.jit(phi), x, batch_size), len(jax.tree.leaves(x)[0]))


def _by_batches(f: Callable, x: Any, batch_size: int | None) -> Any:
    """f over batches of one shape, on the host; the last is filled up by repeats, which are cut off again."""
    n = len(jax.tree.leaves(x)[0])
    size = min(batch_size or n, n)
    parts = []
    for start in range(0, n, size):
        at = np.minimum(np.arange(start, start + size), n - 1)
        parts.append(jax.device_get(f(jax.tree.map(lambda leaf, at=at: leaf[at], x))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n] if leaves[0].ndim else leaves[0], *parts)


def _checked(z: np.ndarray, n: int) -> np.ndarray:
    if z.ndim < 2 or len(z) != n:
        raise ValueError(f"phi must return latents [batch, ...] of its batch; of {n} examples it made {list(z.shape)}")
    bad = np.flatnonzero(~np.isfinite(z.reshape(n, -1)).all(1))
    if len(bad):
        raise ValueError(f"the latents of {len(bad)} of {n} examples are NaN or infinite, the first at index {bad[0]}")
    return z


def _cosine(a: Float[Array, "n ..."], b: Float[Array, "n ..."]) -> Float[Array, " n"]:
    def unit(z):
        z = z.reshape(len(z), -1)
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)  # NaN for no length

    return (unit(a) * unit(b)).sum(-1)


def _different(molecules: np.ndarray, n_pairs: int, rng: np.random.Generator) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of examples of different molecules: the first uniform, the second uniform among the others."""
    order = np.argsort(molecules, kind="stable")
    ids = molecules[order]
    if len(ids) == 0 or ids[0] == ids[-1]:
        raise ValueError(f"comparing different molecules needs at least two, got {len(np.unique(ids))}")
    first = rng.integers(len(ids), size=n_pairs)
    start, stop = np.searchsorted(ids, ids[first]), np.searchsorted(ids, ids[first], "right")
    second = rng.integers(len(ids) - (stop - start))
    second = np.where(second >= start, second + stop - start, second)  # step over the molecule itself
    return order[np.stack([first, second], axis=-1)]


def _auc(same, different, of_same, of_different) -> Float[np.ndarray, " resamples"]:
    """P(same > different) + P(equal) / 2, for each row of weights `[resamples, n]` and `[resamples, pairs]`."""
    here, there = ~np.isnan(same), ~np.isnan(different)
    same, of_same, of_different = same[here], of_same[:, here], of_different[:, there]
    order = np.argsort(different[there])
    below = np.cumsum(np.pad(of_different[:, order], ((0, 0), (1, 0))), axis=1)
    left, right = (np.searchsorted(different[there][order], same, side) for side in ("left", "right"))
    with np.errstate(invalid="ignore"):  # a resample may hold no pair
        return (of_same * (below[:, left] + below[:, right])).sum(1) / (2 * of_same.sum(1) * below[:, -1])


def _quantiles(values: np.ndarray) -> dict[str, float]:
    names = {"median": 0.5, "q05": 0.05, "q25": 0.25, "q75": 0.75, "q95": 0.95}
    return {name: float(np.nanquantile(values, q)) for name, q in names.items()}
