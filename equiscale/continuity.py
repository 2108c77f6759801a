"""Is a model continuous? The largest change of its output over that of its input, along paths, at ever smaller steps.

Along a straight path of an example's points, cut into pieces, the steepest piece is kept and halved again and again:

    ratio(h) = |f(x(t + h)) - f(x(t))| / |x(t + h) - x(t)|    of the steepest step of length h that was looked at

with root mean squares over components as norms. Of two halves one is at least as steep as the whole, so that ratios
never fall as steps shrink (but for rounding). Those of a model that is Lipschitz stay below its constant; if the
output jumps by J on the way and the halves lead there, they grow as J / h. The search is greedy: a jump is found where
it stands out among the first steps, and one that is not found may still be there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from equiscale import actions
from equiscale.frames import Points, Positions, checked_points
from equiscale.losses import square_norm
from equiscale.twirl import Model


class Continuity(NamedTuple):
    """Of each example, at each step size, from the whole path down: all in root mean squares over components.

    `floors` are the ratios that rounding alone would show: the change of the output when the points are moved by their
    own last digit, over the step. 0 for examples without points.
    """

    steps: Float[Array, "s batch"]
    ratios: Float[Array, "s batch"]
    floors: Float[Array, "s batch"]


def continuity(
    f: Model,
    x: Any,
    key: PRNGKeyArray,
    *,
    positions: Positions = lambda x: (x, None),
    length: float = 0.5,
    example_ids: Int[Array, " batch"] | None = None,
    **settings,
) -> Continuity:
    """The ratios of `f` along a random straight path of each example's points, whose end is `length` away.

    Every point goes a random way of its own, in units of the points; an example's path depends on the key, its id
    (default: its position in the batch) and the points' places alone. `positions` is as for `frame_average`, by default
    that x is the points; the other `settings`, and what raises, are those of `continuity_along`.
    """
    points, real = checked_points(positions, x)
    ids = jnp.arange(len(points)) if example_ids is None else example_ids

    def of_point(i, place):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), place), (3,), points.dtype)

    ways = jax.vmap(jax.vmap(of_point, (None, 0)), (0, None))(ids, jnp.arange(points.shape[1]))
    ways = jnp.where(real[..., None], ways, 0)
    size = _root_mean_square(ways, real)(ways)
    path = length * ways / jnp.where(size > 0, size, 1)[:, None, None]
    return continuity_along(f, x, path, positions=positions, **settings)


def continuity_along(
    f: Model,
    x: Any,
    path: Points,
    *,
    positions: Positions = lambda x: (x, None),
    move: Callable[[Any, Points], Any] = jnp.add,
    mask: Any = None,
    pieces: int = 16,
    halvings: int = 8,
) -> Continuity:
    """The ratios of `f` along given paths: `path` is how far the points are moved at its end, `[batch, n, 3]`.

    Args:
      move: (x, displacements `[batch, n, 3]`) -> x with its points moved by them.
      mask: components of the output that count, as for `decompose`.
      pieces: a power of two; step sizes begin at the whole path and halve down to its pieces, all of which are looked
        at, and then `halvings` times more. The batch is evaluated pieces + halvings + 2 times. Steps of a float32 model
        should stay above 1e-4 of what its input measures.

    Raises ValueError for pieces that are no power of two, and for points of another shape.
    """
    if pieces < 1 or pieces & (pieces - 1):
        raise ValueError(f"pieces={pieces} is no power of two, such as 16")
    points, real = checked_points(positions, x)
    path = jnp.where(real[..., None], path, 0)
    n = len(path)

    def moved(by):
        return f(move(x, by))

    # At the cuts between pieces, and with the points moved by their last digit.
    cuts = jnp.linspace(0, 1, pieces + 1, dtype=path.dtype)
    digit = jnp.where(real[..., None], jnp.finfo(points.dtype).eps * points, 0)
    everything = jax.lax.map(moved, jnp.concatenate([cuts[:, None, None, None] * path, digit[None]]))
    values, rounded = (jax.tree.map(lambda v: v[:-1], everything), jax.tree.map(lambda v: v[-1], everything))
    start = jax.tree.map(lambda v: v[0], values)
    norm = _root_mean_square(start, mask)

    def change(a, b):
        return norm(jax.tree.map(jnp.subtract, a, b))

    def changes(stride):  # over neighbouring cuts, of every so many
        ends = jax.tree.map(lambda v: v[::stride], values)
        return jax.vmap(change)(jax.tree.map(lambda v: v[:-1], ends), jax.tree.map(lambda v: v[1:], ends))

    def value(cut):  # at a cut of each example's own
        return jax.tree.map(lambda v: v[cut, jnp.arange(n)], values)

    coarse = [changes(2**k).max(0) for k in reversed(range(pieces.bit_length()))]
    steepest = changes(1).argmax(0)

    def halve(state, width):
        t, low, high = state
        middle = moved((t + width)[:, None, None] * path)
        left, right = change(low, middle), change(middle, high)
        first = left >= right
        kept = jnp.where(first, t, t + width), _select(first, low, middle), _select(first, middle, high)
        return kept, jnp.maximum(left, right)

    widths = 0.5 ** jnp.arange(1, halvings + 1, dtype=path.dtype) / pieces
    _, fine = jax.lax.scan(halve, (cuts[steepest], value(steepest), value(steepest + 1)), widths)

    steps = 0.5 ** jnp.arange(len(coarse) + halvings, dtype=path.dtype)[:, None] * _root_mean_square(path, real)(path)
    over = jnp.where(steps > 0, 1 / jnp.where(steps > 0, steps, 1), 0)
    return Continuity(steps, jnp.concatenate([jnp.stack(coarse), fine]) * over, change(rounded, start) * over)


def _root_mean_square(like: Any, mask: Any) -> Callable[[Any], Float[Array, " batch"]]:
    """Over the components of each example that the mask leaves."""
    square, _ = square_norm(actions.trivial, like, len(jax.tree.leaves(like)[0]), mask=mask)
    return lambda tree: jnp.sqrt(square(tree))


def _select(first: Array, a: Any, b: Any) -> Any:
    """Rows of `a` where `first`, else those of `b`."""
    return jax.tree.map(lambda u, v: jnp.where(first.reshape(-1, *[1] * (u.ndim - 1)), u, v), a, b)
