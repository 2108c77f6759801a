"""Do two sets of molecules have the same properties? Divergences of their histograms, and distances without bins."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from equiscale.studies.generation_metrics import distribution, merged

N_RESAMPLED = 200  # bootstrap samples and random splits: a standard error itself is then known to 5 %
# Edges common to every comparison, so that divergences of different sets can be compared. The outer bins are open.
EDGES = {
    "logp": np.arange(-3, 9.1, 0.75),
    "tpsa": np.arange(10, 201, 10.0),
    "heavy_atoms": np.arange(2.5, 60, 2),
    "molecular_weight": np.arange(50, 751, 35.0),
    "rings": np.arange(0.5, 8),
    "qed": np.arange(0.05, 0.96, 0.05),
    "rotatable_bonds": np.arange(0.5, 16),
    "h_donors": np.arange(0.5, 8),
    "h_acceptors": np.arange(0.5, 16),
}
MEASURES = ("kl_ab", "kl_ba", "energy", "ks")

Properties = Mapping[str, Float[np.ndarray, " n"]]


def kl_divergence(
    p: Float[np.ndarray, "... bins"], q: Float[np.ndarray, "... bins"], smoothing: float = 1.0
) -> Float[np.ndarray, "..."]:
    """KL(P || Q) = sum P log(P / Q) in nats, of counts p and q each with `smoothing` added to every bin (Laplace).

    Of two samples of one distribution it is about (bins - 1) / 2 (1 / n_p + 1 / n_q), not 0. Without smoothing, bins
    that p has and q has not make it infinite. NaN where a set is empty.
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    empty = (p.sum(-1) == 0) | (q.sum(-1) == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (((of + smoothing).T / (of + smoothing).sum(-1).T).T for of in (p, q))
        terms = np.where(p > 0, p * np.log(p / q), 0)
    return np.where(empty, np.nan, terms.sum(-1))[()]


def kl(
    a: Properties,
    b: Properties,
    rng: np.random.Generator,
    *,
    groups: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    edges: Mapping[str, Float[np.ndarray, " edges"]] = EDGES,
    smoothing: float = 1.0,
) -> dict[str, Any]:
    """Distances between the properties of two sets of molecules, one record per property that has edges.

    `a` and `b` hold a value per molecule of their set, NaN where it has none: those are left out, and `n_a` and `n_b`
    say how many are left. Of each property

    - `kl_ab`, `kl_ba`: `kl_divergence` of a from b and of b from a, in nats, on histograms of `edges`;
    - `energy`: energy distance sqrt(2 integral (F - G)^2) over its largest value sqrt(2 E|X - Y|), from 0 to 1
      (Szekely and Rizzo, J. Stat. Plan. Inference 143, 1249 (2013), its square there), and `ks`: max |F - G|; neither
      has bins.

    Each comes with a bootstrap standard error, the 95 % interval `low`, `high` of the basic bootstrap, which takes
    off the bias that finite sets add, down to 0; and the floor: mean `floor` and 95 % quantile `floor_high` over
    random splits of the pooled molecules into sets of these sizes, and `p_value`, how many of those splits read at
    least as much.

    `groups` name what each molecule of a and of b was made from, where several come from one: they are then resampled
    together, the same names in both sets too, and the floor swaps the sets of a whole group.
    """
    draws, splits = _resamplings(len(next(iter(a.values()))), len(next(iter(b.values()))), groups, rng)
    return {
        name: _compare(np.asarray(a[name], float), np.asarray(b[name], float), of, smoothing, draws, splits)
        for name, of in edges.items()
    }


def group_counts(groups: Sequence[Sequence[Hashable]], rng: np.random.Generator) -> list[Float[np.ndarray, "r n"]]:
    """How often each molecule of each set counts in `N_RESAMPLED` bootstrap draws of groups that the sets share."""
    names = {name: i for i, name in enumerate(dict.fromkeys(name for of_set in groups for name in of_set))}
    if not names:
        return [np.zeros((N_RESAMPLED, 0)) for _ in groups]
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), N_RESAMPLED)
    return [counts[:, [names[name] for name in of_set]].astype(float) for of_set in groups]


def summary(value: float, resampled: Float[np.ndarray, " r"], least: float = 0.0, most: float = np.inf) -> dict:
    """A value with its standard error and the basic bootstrap's 95 % interval, 2 value - quantiles, within bounds.

    The interval of a distance is that of the distance without the bias of finite sets, so it may lie below the value.
    Near 0 no bootstrap of a distance holds: there its floor decides.
    """
    finite = resampled[np.isfinite(resampled)]
    if not len(finite) or not np.isfinite(value):
        return {"value": float(value), "standard_error": np.nan, "low": np.nan, "high": np.nan}
    low, high = np.clip(2 * value - np.quantile(finite, [0.975, 0.025]), least, most)
    error = float(np.std(finite, ddof=1))
    return {"value": float(value), "standard_error": error, "low": float(low), "high": float(high)}


def _resamplings(n_a: int, n_b: int, groups, rng) -> tuple[tuple, tuple]:
    """Weights (of a, of b), each [r, n_a + n_b]: of bootstrap draws and of random splits, for the pooled molecules."""
    if groups is None:
        draws = [*group_counts([range(n_a)], rng), *group_counts([range(n_b)], rng)]
        is_a = rng.permuted(np.tile(np.arange(n_a + n_b) < n_a, (N_RESAMPLED, 1)), axis=1)
    else:
        if [len(of_set) for of_set in groups] != [n_a, n_b]:
            raise ValueError(f"groups of {[len(g) for g in groups]} molecules for sets of {[n_a, n_b]}: name one each")
        draws = group_counts(groups, rng)
        names = {name: i for i, name in enumerate(dict.fromkeys([*groups[0], *groups[1]]))}
        index = np.array([names[name] for of_set in groups for name in of_set], int)
        swapped = rng.random((N_RESAMPLED, len(names))) < 0.5
        is_a = (np.arange(n_a + n_b) < n_a) ^ swapped[:, index]
    padded = (
        np.concatenate([draws[0], np.zeros((N_RESAMPLED, n_b))], axis=1),
        np.concatenate([np.zeros((N_RESAMPLED, n_a)), draws[1]], axis=1),
    )
    return padded, (is_a.astype(float), (~is_a).astype(float))


def _compare(a, b, edges, smoothing, draws, splits) -> dict[str, Any]:
    """The record of one property: the sets themselves, their draws and their splits are weights of one pool."""
    there = np.isfinite(np.concatenate([a, b]))
    pool = np.concatenate([a, b])[there]
    is_a = (np.arange(len(a) + len(b)) < len(a))[there]
    itself = is_a.astype(float)[None], (~is_a).astype(float)[None]
    values = _measures(pool, edges, smoothing, *itself)
    drawn = _measures(pool, edges, smoothing, *(weights[:, there] for weights in draws))
    split = _measures(pool, edges, smoothing, *(weights[:, there] for weights in splits))
    record: dict[str, Any] = {"n_a": int(is_a.sum()), "n_b": int((~is_a).sum())}
    for name in MEASURES:
        value, floor = float(values[name][0]), split[name][np.isfinite(split[name])]
        known = np.isfinite(value) and len(floor)
        record[name] = summary(value, drawn[name], most=1.0 if name in ("energy", "ks") else np.inf) | {
            "floor": float(floor.mean()) if known else np.nan,
            "floor_high": float(np.quantile(floor, 0.95)) if known else np.nan,
            "p_value": float((1 + (floor >= value).sum()) / (1 + len(floor))) if known else np.nan,
        }
    return record


def _measures(pool, edges, smoothing, weights_a, weights_b) -> dict[str, Float[np.ndarray, " r"]]:
    """Each of `MEASURES` between the pool weighted one way and the other, [r, n] each."""
    if not len(pool):
        return dict.fromkeys(MEASURES, np.full(len(weights_a), np.nan))
    one_hot = np.searchsorted(edges, pool, side="right")[:, None] == np.arange(len(edges) + 1)
    p, q = weights_a @ one_hot, weights_b @ one_hot
    gaps, places, _ = merged(pool, pool[:0])
    f, g = (distribution(places, weights, len(pool)) for weights in (weights_a, weights_b))
    apart = (f * (1 - g) + g * (1 - f)) @ gaps  # E|X - Y|
    squared = ((f - g) ** 2) @ gaps
    empty = (weights_a.sum(-1) == 0) | (weights_b.sum(-1) == 0)
    energy = np.sqrt(squared / np.where(apart > 0, apart, 1))
    steps = np.where(gaps > 0, np.abs(f - g), 0)  # equal values are one jump
    return {
        "kl_ab": kl_divergence(p, q, smoothing),
        "kl_ba": kl_divergence(q, p, smoothing),
        "energy": np.where(empty, np.nan, energy),
        "ks": np.where(empty, np.nan, steps.max(-1, initial=0)),
    }
