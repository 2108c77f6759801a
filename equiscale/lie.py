"""How fast a function leaves equivariance: the Lie derivative, the infinitesimal twist, and its share by layer.

    (L_X f)(x) = d/dt exp(-tX) f(exp(tX) x)  at t = 0

(Gruver et al., arXiv 2210.02984) is the derivative of the twist at the identity along an element X of the group's Lie
algebra; it is zero for all x and X exactly where f is equivariant under the connected group. Summed over a basis, its
squared norm is what the equivariance loss tends to near the identity: over `normal(n, sigma)`,

    equiv = sigma^2 sum_a |L_a f(x)|^2 / D + O(sigma^4).

It has no sampling error and costs one forward pass with `dim` tangents, but looks at small motions only: finite
groups have none, and a model symmetric under the cube's rotations alone is not symmetric here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from equiscale import actions, checks
from equiscale.actions import Segments
from equiscale.average import widen
from equiscale.groups import Group
from equiscale.losses import square_norm
from equiscale.reduce import AxisName, Moments, by_cluster
from equiscale.twirl import Model, Symmetry, count_examples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LieDerivative:
    """Squared norms of a Lie derivative, summed over the algebra's basis, per component of the output.

    A pytree of moments; add two to get those of the union of their examples. In units of the output squared per unit
    of the basis squared (radians for rotations). `shares` and `layers` have one entry a layer of `layerwise`.
    `per_example` holds the squared norms `[batch]`, of any weight.
    """

    moments: Moments  # of weight, |L f|^2, |f|^2, then each layer's <c_k, L f> and each layer's |c_k|^2
    per_example: Float[Array, " batch"]
    group: str = dataclasses.field(metadata={"static": True})
    n_layers: int = dataclasses.field(metadata={"static": True})

    def _ratio(self, over: int, under: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
        one = jnp.eye(3 + 2 * self.n_layers, dtype=self.moments.mean.dtype)
        return self.moments.ratio(one[over], one[under]), self.moments.ratio_stderr(one[over], one[under])

    @property
    def square(self) -> Float[Array, ""]:
        """sum_a |L_a f|^2 / D, averaged over examples by weight."""
        return self._ratio(1, 0)[0]

    @property
    def square_stderr(self) -> Float[Array, ""]:
        """Its standard error over examples (clusters, where given)."""
        return self._ratio(1, 0)[1]

    @property
    def signal_relative(self) -> Float[Array, ""]:
        """`square` over the mean square of the output: the relative rate of change per unit of the basis, squared."""
        return self._ratio(1, 2)[0]

    @property
    def signal_relative_stderr(self) -> Float[Array, ""]:
        return self._ratio(1, 2)[1]

    @property
    def shares(self) -> list[Float[Array, ""]]:
        """<c_k, L f> / |L f|^2 of each layer's contribution c_k: they sum to 1; below 0 a layer undoes others."""
        return [self._ratio(3 + k, 1)[0] for k in range(self.n_layers)]

    @property
    def layers(self) -> list[Float[Array, ""]]:
        """|c_k|^2 / D of each layer's contribution alone; these do not add up, for contributions are not orthogonal."""
        return [self._ratio(3 + self.n_layers + k, 0)[0] for k in range(self.n_layers)]

    @property
    def n_examples(self) -> Float[Array, ""]:
        """Independent examples (clusters, where given) of non-zero weight."""
        return self.moments.count

    def __add__(self, other: "LieDerivative") -> "LieDerivative":
        mine, theirs = (self.group, self.n_layers), (other.group, other.n_layers)
        if mine != theirs:
            raise ValueError(f"only numbers of one kind can be merged: (group, layers) {mine} against {theirs}")
        rows = jnp.concatenate([self.per_example, other.per_example])
        return dataclasses.replace(self, moments=self.moments + other.moments, per_example=rows)

    def __radd__(self, other):
        return self if other == 0 else NotImplemented  # so that sum(...) works

    def record(self) -> dict[str, Any]:
        """Plain numbers with the names they need to be read: one row of a metrics file."""
        names = ["square", "square_stderr", "signal_relative", "signal_relative_stderr", "n_examples"]
        numbers = {name: getattr(self, name).item() for name in names} | {"group": self.group}
        if self.n_layers > 1:
            numbers |= {name: [v.item() for v in getattr(self, name)] for name in ("shares", "layers")}
        return numbers


def lie_derivative(f: Model, sym: Symmetry, x: Any, **settings) -> LieDerivative:
    """The Lie derivative of `f` on one batch `x`, under the group of `sym` (nothing is drawn from its measure).

    Exact, in forward mode; f may be any function of the whole batch that has derivatives along the action. The
    settings, and what raises, are those of `layerwise`.
    """
    return layerwise([f], [sym.act_in, sym.act_out], sym.measure.group, x, **settings)


def layerwise(
    layers: Sequence[Model],
    acts: Sequence[Any],
    group: Group,
    x: Any,
    *,
    mask: Any = None,
    weight: Float[Array, " batch"] | None = None,
    clusters: Int[Array, " batch"] | None = None,
    segments: Segments = None,
    chunk: int | None = None,
    axis_name: AxisName = None,
) -> LieDerivative:
    """The Lie derivative of f_n o ... o f_1 and what each layer adds to it (the chain rule).

        L f = sum_k c_k,    c_k = D(f_n o ... o f_k+1)(L f_k)(f_k-1 o ... o f_1(x))

    with L f_k the layer's own Lie derivative between the actions on its two interfaces. An equivariant layer adds
    nothing; what another adds depends on the actions chosen inside, their sum does not.

    Args:
      layers: functions of the whole batch, applied in turn.
      acts: n + 1 actions (or pytrees of them): on x, between the layers, and on the output.
      group: one with a Lie algebra: `so3`, `o3`, `translations`.
      x: a pytree whose acted-on leaves start with the batch axis, or with rows where `segmented`.
      mask: components of the output that count, `[batch, ...]` with leading axes of it.
      weight: weight of each example; 0 for padding. Needed where all of input and output is segmented or trivial.
      clusters: ids in 0..batch-1 of examples that are not independent: the unit of the standard error.
      segments: for padded graphs, the example of each row (a dict of them for several kinds of row).
      chunk: elements of the basis differentiated at once (None: all of them, sharing one forward pass).
      axis_name: a mapped device axis that carries examples.

    Raises ValueError for a group without a Lie algebra, an action of a finite group only (`grid`), actions that do
    not match the layers; on a plain call also for values that are not finite.
    """
    if len(acts) != len(layers) + 1:
        raise ValueError(f"{len(layers)} layers have {len(layers) + 1} interfaces, got {len(acts)} actions")
    basis = group.generators()
    x = jax.tree.map(jnp.asarray, x)
    checks.check_finite(x, "the input")
    shapes = [x]
    for f in layers:
        shapes.append(jax.eval_shape(f, shapes[-1]))
    where = ["the input", *(f"the output of layer {k + 1}" for k in range(len(layers)))]
    smooth = [_away_from_identity(group, *at) for at in zip(acts, shapes, where, strict=True)]
    n = _count(acts, shapes, weight)
    square, components = square_norm(acts[-1], shapes[-1], n, mask=mask, segments=segments)

    def along(generator):
        z, parts = _contributions(layers, smooth, group, x, generator, segments)
        whole = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        products = [_inner(square, part, whole) for part in parts]
        return jnp.stack([square(whole), square(z), *products, *map(square, parts)], axis=-1)

    basis = jnp.asarray(basis, jnp.result_type(float))
    values = jax.lax.map(along, basis, batch_size=chunk or len(basis))  # [dim, batch, 2 + 2 layers]
    values = values.sum(0).at[:, 1].set(values[0, :, 1])
    weight = jnp.ones(n) if weight is None else jnp.asarray(weight, float)
    weight = jnp.where(components > 0, weight, 0)
    rows = weight[:, None] * jnp.concatenate([jnp.ones((n, 1)), values], axis=-1)
    moments = Moments.of(*by_cluster(rows, weight > 0, clusters)).psum(axis_name)
    result = LieDerivative(moments, values[:, 0], group=group.name, n_layers=len(layers))
    if checks.is_known(moments.mean) and not jnp.isfinite(moments.mean).all():
        bad = jnp.flatnonzero(~jnp.isfinite(values).all(-1) & (weight > 0))
        raise ValueError(f"the Lie derivative is not finite for {bad.size} examples, the first at index {int(bad[0])}")
    return result


def _contributions(layers, acts, group: Group, x, generator, segments) -> tuple[Any, list[Any]]:
    """f(x), and each layer's Lie derivative along one generator, carried to the output by the layers above it."""
    identity, velocity = jax.jvp(group.exp, (jnp.zeros_like(generator),), (generator,))
    tangents = []
    for f, act_in, act_out in zip(layers, acts, acts[1:], strict=False):

        def twisted(g, x=x, f=f, act_in=act_in, act_out=act_out):
            turned = actions.apply(act_in, g, x, segments=segments, shared=True)
            z = f(turned)
            return actions.apply(act_out, group.inverse(g), z, segments=segments, shared=True, what="output")

        z, own = jax.jvp(twisted, (identity,), (velocity,))
        if tangents:
            z, push = jax.linearize(f, x)
            tangents = [push(t) for t in tangents]
        x, tangents = z, [*tangents, own]
    return widen(x), widen(tangents)


def _away_from_identity(group: Group, acts: Any, shape: Any, where: str) -> Any:
    """The same actions by way of a fixed generic element r, g x = r^-1 (r g) x.

    So nothing is differentiated at the identity, where the angles of a rotation (and what is made of them: Wigner
    matrices) have no derivative.

    Raises ValueError for an action that refuses r.
    """
    basis = group.generators()
    with jax.ensure_compile_time_eval():
        coefficients = jnp.cos(1.0 + jnp.arange(len(basis)))
        generic = group.exp(jnp.tensordot(coefficients, jnp.asarray(basis, coefficients.dtype), 1))
        inverse = group.inverse(generic)

    def smooth(action):
        if isinstance(action, actions.segmented):
            return action._replace(action=smooth(action.action))
        if action is actions.trivial:
            return action
        return lambda g, x: action(inverse, action(group.multiply(generic, g), x))

    def check(path, action, leaf):
        action = action.action if isinstance(action, actions.segmented) else action
        try:
            jax.eval_shape(lambda x: action(generic, x), jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype))
        except ValueError as error:
            raise ValueError(
                f"no Lie derivative: the action on {where}{jax.tree_util.keystr(path)} cannot take a general element "
                f"of {group.name} (such as grid, an action of a finite group): {error}"
            ) from error

    actions.map_prefix(check, acts, shape, where)
    return jax.tree.map(smooth, acts, is_leaf=lambda a: isinstance(a, actions.segmented))


def _inner(square, a: Any, b: Any) -> Float[Array, " batch"]:
    """<a, b> per component, from squared norms."""
    return (square(jax.tree.map(jnp.add, a, b)) - square(jax.tree.map(jnp.subtract, a, b))) / 4


def _count(acts: Sequence[Any], shapes: Sequence[Any], weight: Any) -> int:
    """Examples in the batch: one weight each, or the leading axis of a leaf of input or output that holds examples."""
    n = len(weight) if weight is not None else None
    for end in (0, -1):
        n = count_examples(acts[end], shapes[end]) if n is None else n
    if n is None:
        raise ValueError("how many examples? all of input and output is segmented or trivial: pass weight=[n_examples]")
    return n
