"""The loss components as functions of a flat vector of chosen parameters: what Hessians and landscapes are made of.

With z_k(v) the twisted predictions, S >= 0 the weight of each of their entries (example weights, mask and 1/D) and
w_k those of the elements,

    mean(v)  = S . (zbar(v) - y)^2,    equiv(v) = sum_k w_k S . (z_k(v) - zbar(v))^2,    total = mean + equiv.

The elements are drawn once and stay: these are the plug-in components on a fixed set of elements, as in the paper's
section 3.4. (For K independent draws the unbiased equivariance loss is K / (K - 1) times this one.)
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from equiscale import frozen
from equiscale.actions import Action, Segments
from equiscale.decompose import check_prediction, count_rows
from equiscale.losses import square_norm
from equiscale.parameters import insert, select
from equiscale.twirl import Symmetry, draw_elements, twist

PARTS = ("total", "mean", "equiv")
Vector = Float[np.ndarray, " n"]


class Data(NamedTuple):
    """What the components of one batch are computed from, cached once."""

    constants: list[Array]
    features: list[Array]  # [n_elements, ...]: what the chosen layers read of each turned input
    weights: Float[Array, " n_elements"]
    entry: Float[Array, " rows"]  # S
    target: Float[Array, " rows"]


class Components:
    """Loss components of one batch and one set of group elements, in the neighbourhood of a model's parameters.

    `vector` holds the chosen parameters; `losses`, `gradients` and `products` take any vector of that length, so that
    other models than the given one can be asked too. They are jitted, run in the precision of `vector` whatever the
    caller's, and return host arrays.
    """

    def __init__(self, rest: Callable, data: Data, vector: Array, names: Sequence[str], unravel: Callable, label: str):
        self.rest, self.data, self.measure = rest, data, label
        self.vector, self.names, self.unravel = np.asarray(vector), tuple(names), unravel
        self._losses = jax.jit(self.losses_of)
        self._gradients = jax.jit(self.gradients_of)
        self._products = jax.jit(self.products_of, static_argnames="parts")
        self._jacobian_rows = jax.jit(self.jacobian_rows_of)
        # One function a part, made once, so that what is compiled for it stays compiled.
        self.hessian = {part: self._product_of(part) for part in PARTS}

    @property
    def n(self) -> int:
        """The number of chosen parameters."""
        return self.vector.size

    def precision(self):
        """The context in which its arrays keep their precision."""
        return jax.enable_x64(True) if self.vector.dtype == jnp.float64 else contextlib.nullcontext()

    def _own(self, array) -> np.ndarray:
        return np.asarray(array, self.vector.dtype)

    def losses(self, vector: Vector) -> dict[str, Float[np.ndarray, ""]]:
        """total, mean and equiv at `vector`."""
        with self.precision():
            return jax.device_get(self._losses(self.data, self._own(vector)))

    def gradients(self, vector: Vector) -> dict[str, Float[np.ndarray, " n"]]:
        """Their gradients with respect to the chosen parameters."""
        with self.precision():
            return jax.device_get(self._gradients(self.data, self._own(vector)))

    def products(
        self, vector: Vector, directions: Float[np.ndarray, "b n"], parts: tuple[str, ...] = ("mean", "equiv")
    ) -> dict[str, Float[np.ndarray, "b n"]]:
        """Hessians of the named components at `vector` times each direction.

        Forward over reverse, streamed over the elements: two passes, one for the change of the twirl, one that pulls
        it back. Memory is that of one element times b.
        """
        with self.precision():
            return jax.device_get(self._products(self.data, *map(self._own, (vector, directions)), parts=parts))

    def jacobian_rows(self, vector: Vector, index: Int[np.ndarray, " r"]) -> Float[np.ndarray, "k r n"]:
        """d z_k / d vector of the flattened predictions at `index`, for every group element."""
        with self.precision():
            return jax.device_get(self._jacobian_rows(self.data, self._own(vector), index))

    # --- the same as pure functions of the data, to be used inside other jitted ones ---------------------------------
    # One pass over the elements is a scan of `step(carry, features, weight) -> carry`.

    def _scan(self, data: Data, step: Callable, start: Any) -> Any:
        return jax.lax.scan(lambda c, e: (step(c, *e), None), start, (data.features, data.weights))[0]

    def _twirl(self, data: Data, of_element: Callable) -> Any:
        def step(total, features, w):
            return jax.tree.map(lambda t, z: t + w * z, total, of_element(features))

        shapes = jax.eval_shape(lambda f: of_element([a[0] for a in f]), data.features)
        return self._scan(data, step, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))

    def losses_of(self, data, vector):
        def predict(features):
            return self.rest(vector, data.constants, features)

        twirl = self._twirl(data, predict)

        def step(equiv, features, w):
            return equiv + w * _weighted_square(data.entry, predict(features), twirl)

        mean = _weighted_square(data.entry, twirl, data.target)
        equiv = self._scan(data, step, jnp.zeros_like(mean))
        return {"total": mean + equiv, "mean": mean, "equiv": equiv}

    def gradients_of(self, data, vector):
        twirl = self._twirl(data, lambda features: self.rest(vector, data.constants, features))

        def step(totals, features, w):
            z, pull = jax.vjp(lambda v: self.rest(v, data.constants, features), vector)
            cotangents = self._cotangents(data, w, z, twirl)
            return {p: total + pull(cotangents[p])[0] for p, total in totals.items()}

        found = self._scan(data, step, {p: jnp.zeros_like(vector) for p in ("mean", "equiv")})
        return {"total": found["mean"] + found["equiv"], **found}

    def _cotangents(self, data, w, z, twirl) -> dict[str, Array]:
        return {
            "total": 2 * w * _weighted(data.entry, z, data.target),
            "mean": 2 * w * _weighted(data.entry, twirl, data.target),
            "equiv": 2 * w * _weighted(data.entry, z, twirl),
        }

    def products_of(self, data, vector, directions, parts):
        def moved(features):
            """z and its change along each direction."""
            z, push = jax.linearize(lambda v: self.rest(v, data.constants, features), vector)
            return z, jax.vmap(push)(directions)

        twirl, twirl_moves = self._twirl(data, moved)

        def step(totals, features, w):
            z, moves = moved(features)
            cotangents = {p: c for p, c in self._cotangents(data, w, z, twirl).items() if p in parts}
            scale = 2 * w * data.entry
            changes = {"total": moves, "mean": twirl_moves, "equiv": moves - twirl_moves}
            changes = {p: scale * changes[p] for p in parts}

            def gradients(v, cotangents):
                pull = jax.vjp(lambda v: self.rest(v, data.constants, features), v)[1]
                return {p: pull(cotangents[p])[0] for p in parts}

            def curved(direction, change):
                return jax.jvp(gradients, (vector, cotangents), (direction, change))[1]

            return jax.tree.map(jnp.add, totals, jax.vmap(curved)(directions, changes))

        return self._scan(data, step, {p: jnp.zeros_like(directions) for p in parts})

    def _product_of(self, part: str) -> Callable[[Data, Array, Array], Array]:
        """(data, vector, direction) -> the Hessian of one component times one direction."""
        return lambda data, vector, direction: self.products_of(data, vector, direction[None], (part,))[part][0]

    def jacobian_rows_of(self, data, vector, index):
        one_hot = jax.nn.one_hot(index, data.target.size, dtype=vector.dtype)

        def of_element(features):
            pull = jax.vjp(lambda v: self.rest(v, data.constants, features), vector)[1]
            return jax.vmap(lambda row: pull(row)[0])(one_hot)

        return jax.lax.map(of_element, data.features)


def components(
    apply: Callable[[Any, Any], Any],
    params: Any,
    sym: Symmetry,
    x: Any,
    y: Any,
    *,
    key: PRNGKeyArray,
    only: str | Sequence[str] = "*",
    mask: Any = None,
    weight: Float[Array, " batch"] | None = None,
    segments: Segments = None,
    example_ids: Int[Array, " batch"] | None = None,
    dtype: Any = jnp.float64,
    cache: bool = True,
) -> Components:
    """The squared-error components of `apply(params, x)` as functions of the parameters that `only` matches.

    Args:
      only: path patterns of the chosen parameters (see `equiscale.parameters`), all by default.
      dtype: parameters, data and sums in float64 by default, since condition numbers of 1e9 are beyond float32; a
        model that casts to a type of its own keeps to that.
      cache: store, for every group element, what the chosen layers read of the frozen ones (an automatic cut of the
        model); False recomputes it each time.
      The rest as for `equiscale.decompose`.

    Raises what `equiscale.decompose` and `equiscale.parameters.select` raise.
    """
    double = jnp.dtype(dtype) == jnp.float64
    with jax.enable_x64(True) if double else contextlib.nullcontext():
        params, x, y, mask, weight = (as_type(tree, dtype) for tree in (params, x, y, mask, weight))
        names, vector, unravel = chosen_vector(params, only)
        n = count_rows(sym, y, weight)
        entry = entry_weights(sym.act_target, y, n, mask=mask, weight=weight, segments=segments)
        ids = jnp.arange(n) if example_ids is None else jnp.asarray(example_ids)
        elements, weights = draw_elements(sym.measure, key, ids)
        elements = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), elements)
        weights = jnp.tile(jnp.asarray(weights, dtype), sym.measure.n_units) / sym.measure.n_units

        def predict(vector, g):
            moved = insert(params, unravel(vector))
            z = twist(lambda x: apply(moved, x), sym, segments=segments)(g, x)
            check_prediction(sym, z, y, None, None, n, segments)
            return ravel_pytree(z)[0].astype(dtype)

        one = jax.tree.map(lambda a: a[0], elements)
        parts = frozen.split(predict, vector, one, cache=cache)
        constants = parts.constants()
        features = jax.jit(lambda c, e: jax.lax.map(lambda g: parts.known(c, g), e))(constants, elements)
        data = Data(constants, features, weights, entry, ravel_pytree(y)[0].astype(dtype))
    return Components(parts.rest, data, vector, names, unravel, sym.measure.name)


def chosen_vector(params: Any, only: str | Sequence[str]) -> tuple[tuple[str, ...], Array, Callable]:
    """Names of the parameters that `only` matches, all of them in one vector, and how to take that apart again."""
    chosen = select(params, *([only] if isinstance(only, str) else only))
    return tuple(chosen), *ravel_pytree(chosen)


def entry_weights(
    act: Action, y: Any, n: int, *, mask: Any = None, weight: Any = None, segments: Segments = None
) -> Float[Array, " rows"]:
    """S: what each entry of the targets of `n` examples weighs in the loss."""
    square, counts = square_norm(act, y, n, mask=mask, segments=segments)
    weight = jnp.where(counts > 0, jnp.ones(n) if weight is None else weight, 0)
    # square is diagonal: half its gradient at 1 is what each entry weighs.
    ones = jax.tree.map(jnp.ones_like, y)
    return ravel_pytree(jax.grad(lambda e: jnp.vdot(weight / weight.sum(), square(e)) / 2)(ones))[0]


def as_type(tree: Any, dtype: Any) -> Any:
    """The same with its floating-point arrays in `dtype`."""

    def one(leaf):
        return jnp.asarray(leaf, dtype) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def _weighted(entry: Array, a: Array, b: Array) -> Array:
    """S (a - b), 0 where S is 0 whatever stands there."""
    return jnp.where(entry > 0, entry * (a - b), 0)


def _weighted_square(entry: Array, a: Array, b: Array) -> Array:
    return jnp.sum(jnp.where(entry > 0, entry * jnp.square(a - b), 0))
