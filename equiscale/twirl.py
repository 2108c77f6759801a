"""Twist and twirl (Eqs. 1-3 of the training-dynamics paper), streamed over group elements.

    twist(f)(g, x) = g^-1 f(g x)            Z_x(g), Eq. 2
    twirl(f)(x)    = E_g twist(f)(g, x)     mu(x),  Eq. 3

`f` sees whole batches; each example in a batch has its own group element. Elements are visited `chunk` at a time by
a scan that keeps a running mean, so memory does not grow with their number.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from equiscale import actions
from equiscale.actions import Segments
from equiscale.average import average_over_group
from equiscale.measures import Element, Measure
from equiscale.reduce import AxisName
from equiscale.varying import varying_zero

Model = Callable[[Any], Any]  # a batch -> a batch of predictions


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """Which elements (`measure`) act how on the input, the output and the target.

    Each action is a function (g, x) -> x of one example, or a pytree of them (see `equiscale.actions`). The target's
    action defaults to the output's. `checked=False` lets through an output action that does not preserve the loss or
    does not undo itself (interpolated grids, say): the numbers are then those of the pulled-back loss
    l(g^-1 f(g x), y), and the floor carries the action's own error.
    """

    measure: Measure
    act_in: Any
    act_out: Any
    act_target: Any = None
    checked: bool = True

    def __post_init__(self):
        if not isinstance(self.measure, Measure):
            raise TypeError(
                f"measure must be a Measure such as so3.coset(12) or octahedral.enumerate(), got {self.measure!r}"
            )
        if self.act_target is None:
            object.__setattr__(self, "act_target", self.act_out)


# --- elements --------------------------------------------------------------------------------------------------


def draw_elements(
    measure: Measure, key: PRNGKeyArray, example_ids: Int[Array, " batch"]
) -> tuple[Element, Float[np.ndarray, " unit_size"]]:
    """Elements `[n_units, unit_size, batch, ...]` and the weights inside a unit.

    An example's elements depend on the key and its id alone, not on the batch or device it is in. Deterministic
    measures give `[1, unit_size, ...]`, shared by all examples.
    """
    weights = measure.weights
    if weights is None:
        weights = np.full(measure.unit_size, 1 / measure.unit_size)
    if measure.deterministic:
        return measure.draw(key), weights
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(example_ids)
    elements = jax.vmap(measure.draw)(keys)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2), elements), weights


def twist(f: Model, sym: Symmetry, *, segments: Segments = None) -> Callable[[Element, Any], Any]:
    """The twisted model (g, x) -> g^-1 f(g x), Eq. 2; `g` holds one element per example of the batch.

    `x` is transformed as it is, noise included: a stochastic input must be drawn before, not inside `f`, or its
    variance would be counted as broken symmetry.
    """
    undo = act_out(sym, segments, inverse=True)

    def twisted(g, x):
        turned = actions.apply(sym.act_in, g, x, segments=segments, shared=sym.measure.deterministic)
        return undo(g, f(turned))

    return twisted


def act_out(sym: Symmetry, segments: Segments = None, *, inverse: bool = False) -> Callable[[Element, Any], Any]:
    """(g, z) -> g z on a batch of predictions, or g^-1 z."""
    shared = sym.measure.deterministic
    invert = sym.measure.group.inverse if shared else jax.vmap(sym.measure.group.inverse)

    def act(g, z):
        g = invert(g) if inverse else g
        return actions.apply(sym.act_out, g, z, segments=segments, shared=shared, what="output")

    return act


def auto_chunk(measure: Measure, n_examples: int, x: Any) -> int:
    """How many elements to evaluate at once: the largest divisor that still fills the machine usefully.

    One at a time is fastest once a batch keeps the machine busy; a CPU is busy at about 32 small examples, an
    accelerator later. The bound on numbers keeps large examples (voxel grids) from multiplying their memory.
    """
    examples, numbers = (32, 2**16) if jax.default_backend() == "cpu" else (512, 2**23)
    n_elements = measure.unit_size if measure.unit_size > 1 else measure.n_units
    size = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(x) if hasattr(leaf, "shape"))
    most = max(1, min(examples // n_examples, numbers // max(int(size), 1)))
    return max(d for d in range(1, n_elements + 1) if n_elements % d == 0 and d <= most)


def twirl(
    f: Model, sym: Symmetry, *, chunk: int | None = None, axis_name: AxisName = None, element_axis: AxisName = None
) -> Callable[..., Any]:
    """The twirled model mu, Eq. 3: `(key, x) -> E_g g^-1 f(g x)`, at float32 or better.

    Exactly equivariant for a group's own measure (`enumerate`), in expectation for random ones. The model returned
    takes `segments` and `n_examples` (static) where x is a padded graph, and `example_ids` to fix each example's
    elements whatever batch it is in. `chunk`: elements evaluated at once (None: chosen by `auto_chunk`).
    `axis_name` names a mapped device axis that carries examples, `element_axis` one that carries elements.
    """

    def twirled(key, x, *, segments=None, n_examples=None, example_ids=None):
        n = count_examples(sym.act_in, x) if n_examples is None else n_examples
        if n is None and sym.measure.deterministic:
            n = 1  # only sizes the chunk: the elements are the same for all
        if n is None:
            raise ValueError("how many examples? all leaves of x are segmented or trivial: pass n_examples=...")
        elements, weights = draw_elements(sym.measure, key, global_ids(example_ids, n, axis_name))
        return average_twists(
            f, sym, elements, weights, x, n_examples=n, segments=segments, chunk=chunk, element_axis=element_axis
        )

    return twirled


def average_twists(
    f: Model,
    sym: Symmetry,
    elements: Element,
    weights: Float[np.ndarray, " unit_size"],
    x: Any,
    *,
    n_examples: int,
    segments: Segments = None,
    chunk: int | None = None,
    element_axis: AxisName = None,
) -> Any:
    """The weighted mean of g^-1 f(g x) over given elements, in the layout of `draw_elements`; as `twirl` otherwise."""
    twisted = twist(f, sym, segments=segments)
    return average_over_group(
        lambda g: (twisted(g, x), {}),
        elements,
        weights,
        chunk=chunk or auto_chunk(sym.measure, n_examples, x),
        square=lambda tree: jnp.zeros(()),
        element_axis=element_axis,
        varying=varying_zero((x, elements)),
    ).mean


def symmetrise(f: Model, sym: Symmetry, key: PRNGKeyArray, **settings) -> Model:
    """`f` made equivariant by averaging: the twirl with its elements fixed by `key`, a model x -> prediction."""
    twirled = twirl(f, sym, **settings)
    return lambda x, **where: twirled(key, x, **where)


def global_ids(example_ids: Int[Array, " batch"] | None, n_examples: int, axis_name: AxisName) -> Array:
    """The examples' ids; by default their positions in the batch across all devices of the mapped axis."""
    if example_ids is not None:
        return jnp.asarray(example_ids)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * n_examples
    return first + jnp.arange(n_examples)


def count_examples(acts: Any, x: Any) -> int | None:
    """The leading axis of the first leaf that holds one row per example, None if there is none."""
    sizes = []

    def note(path, action, leaf):
        if action is not actions.trivial and not isinstance(action, actions.segmented):
            sizes.append(jnp.shape(leaf)[0] if jnp.ndim(leaf) else None)

    actions.map_prefix(note, acts, x, "input")
    return sizes[0] if sizes else None
