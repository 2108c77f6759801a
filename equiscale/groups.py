"""Groups, and measures on them: which elements are averaged over, and with what weights.

A *group* multiplies and inverts. A *measure* draws group elements for one example as an array
`[n_units, unit_size, ...]`: a **unit** is a set of elements whose (weighted) average is by itself an unbiased
estimate of the group average; units are independent of each other. That one distinction carries all the
statistics of `equiscale.decompose`:

| measure               | units | elements a unit | average over a unit                               |
|-----------------------|-------|-----------------|---------------------------------------------------|
| `haar(n)`             | n     | 1               | one independent draw                              |
| `coset(order, n=1)`   | n     | order           | a finite subgroup times one random element        |
| `enumerate()`         | 1     | the group       | the group average itself: deterministic           |
| `quadrature(degree)`  | 1     | the nodes       | exact for band-limited functions: deterministic   |
| `normal(n, sigma)`    | n     | 1               | independent draws near the identity               |

The measure's name travels with every number made from it: a percentage over a non-compact group (translations)
means nothing without it.

Rotations are `[3, 3]` matrices throughout, also those of the finite groups, so that one element can act on
coordinates, irreps and voxel grids alike. Permutations are integer arrays p that send slot i to slot p[i].
Elements of a product are tuples.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from equiscale import rotations
from equiscale.measures import Element, Measure, check_count, independent, listed, to_device
from equiscale.rotations import (
    HIGHEST,
    compose_matrices,
    exp_rotation,
    infinitesimal_rotations,
    random_orthogonal,
    random_rotation,
)

MAX_ENUMERATED = 5_040  # 7!, beyond which a sum over a whole group is no longer an evaluation


@dataclasses.dataclass(frozen=True)
class Group:
    """A group by its operations on single elements, and the measures it offers.

    `elements()` lists a finite group as `[order, ...]`; `subgroups` maps an order to such a list, from which
    `coset` takes its subgroup; `nodes(degree)` gives `(elements, weights)` of a quadrature. A Lie group has an
    `algebra()`, a basis `[dim, ...]` of its tangent space at the identity, and `exp` from there to the group.
    """

    name: str
    multiply: Callable[[Element, Element], Element] = dataclasses.field(repr=False)
    inverse: Callable[[Element], Element] = dataclasses.field(repr=False)
    random: Callable[[jax.Array], Element] | None = dataclasses.field(default=None, repr=False)
    elements: Callable[[], np.ndarray] | None = dataclasses.field(default=None, repr=False)
    subgroups: tuple[tuple[int, Callable[[], np.ndarray]], ...] = dataclasses.field(default=(), repr=False)
    nodes: Callable[[int], tuple[np.ndarray, np.ndarray]] | None = dataclasses.field(default=None, repr=False)
    algebra: Callable[[], np.ndarray] | None = dataclasses.field(default=None, repr=False)
    exp: Callable[[jax.Array], Element] | None = dataclasses.field(default=None, repr=False)

    def haar(self, n: int) -> Measure:
        """`n` independent draws from the group's uniform (Haar) measure: what the papers do, with n = 10."""
        if self.random is None:
            raise ValueError(
                f"{self.name} has no uniform probability measure; name one, e.g. "
                f"{self.name}.uniform(n, width) or {self.name}.normal(n, sigma)"
            )
        check_count(n, "n")
        return independent(self, f"{self.name}.haar({n})", self.random, n)

    def enumerate(self) -> Measure:
        """Every element once: the group average itself, without sampling error.

        Raises ValueError for a continuous group and for one of more than 5,040 elements.
        """
        if self.elements is None:
            raise ValueError(
                f"{self.name} cannot be enumerated; use haar(n)"
                + (", coset(order) or quadrature(degree)" if self.nodes else "")
            )
        return listed(self, f"{self.name}.enumerate()", self.elements())

    def coset(self, order: int, n: int = 1) -> Measure:
        """`n` independent randomised cosets {h R : h in H}: H a finite subgroup of that order, R uniform.

        The mean over a coset is unbiased because R is uniform, and its variance holds only what H does not average
        away (for rotations: degrees above 1, 2, 3 and 5 for order 4, 12, 24 and 60), far below that of `order`
        independent draws when the function is smooth. One coset leaves a bias of -Var(coset mean) in the equivariance
        loss: it is blind to errors that commute with H (up to order 24 all that treat x, y, z and their signs alike,
        such as rounding). Two or more cosets are unbiased.
        """
        orders = dict(self.subgroups)
        if order not in orders:
            offered = ", ".join(map(str, orders)) or "none"
            raise ValueError(f"{self.name} has no coset({order}); subgroup orders offered: {offered}")
        check_count(n, "n")
        draw = functools.partial(_draw_cosets, self, orders[order], n)
        name = f"{self.name}.coset({order})" if n == 1 else f"{self.name}.coset({order}, n={n})"
        return Measure(name, self, n_units=n, unit_size=order, draw=draw)

    def quadrature(self, degree: int) -> Measure:
        """Fixed nodes whose weighted sum is the group average of every function band-limited to `degree`.

        For rotations: products of Wigner D-functions up to that degree. An equivariance *loss* is quadratic in the
        prediction, so a twist of degree L needs 2 L.
        """
        if self.nodes is None:
            raise ValueError(f"{self.name} has no quadrature; use haar(n) or enumerate()")
        if degree < 0:
            raise ValueError(f"quadrature degree must be 0 or more, got {degree}")
        elements, weights = self.nodes(degree)
        return listed(self, f"{self.name}.quadrature({degree})", elements, weights)

    def normal(self, n: int, sigma: float) -> Measure:
        """`n` independent draws exp(sum_a sigma eps_a X_a) near the identity: X_a the algebra's basis, eps_a normal.

        `sigma` is in the units of the basis: radians for rotations, those of the coordinates for translations.

        Raises ValueError for a group without a Lie algebra.
        """
        basis = self.generators()
        check_count(n, "n")

        def near_identity(key):
            coefficients = sigma * jax.random.normal(key, basis.shape[:1])
            return self.exp(jnp.tensordot(coefficients, to_device(basis), 1, precision=HIGHEST))

        return independent(self, f"{self.name}.normal({n}, sigma={sigma:g})", near_identity, n)

    def generators(self) -> np.ndarray:
        """The basis of the Lie algebra, `[dim, ...]`. Raises ValueError for a group that has none."""
        if self.algebra is None or self.exp is None:
            raise ValueError(
                f"{self.name} has no Lie algebra (it is finite, or its algebra and exp are not given): there is no "
                "derivative at its identity. Use so3, o3 or translations"
            )
        return self.algebra()


# --- rotations -------------------------------------------------------------------------------------------------


def _with_inversion(proper: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: np.concatenate([proper(), -proper()])


def _orthogonal_nodes(degree: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = rotations.nodes(degree)
    return np.concatenate([nodes, -nodes]), np.concatenate([weights, weights]) / 2


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _draw_cosets(group: Group, subgroup: Callable[[], np.ndarray], n: int, key: jax.Array) -> Element:
    h = to_device(subgroup())
    r = jax.vmap(group.random)(jax.random.split(key, n))
    return jax.vmap(lambda r: jax.vmap(lambda h: group.multiply(h, r))(h))(r)


def _uniform_choice(elements: Callable[[], np.ndarray]) -> Callable[[jax.Array], jax.Array]:
    def random(key):
        table = to_device(elements())
        return table[jax.random.randint(key, (), 0, len(table))]

    return random


def _matrix_group(name: str, elements: Callable[[], np.ndarray]) -> Group:
    return Group(name, compose_matrices, jnp.transpose, _uniform_choice(elements), elements)


_SUBGROUPS = ((4, rotations.half_turns), (12, rotations.tetrahedral), (24, rotations.cube), (60, rotations.icosahedral))

so3 = Group(
    "so3",
    compose_matrices,
    jnp.transpose,
    random_rotation,
    subgroups=_SUBGROUPS,
    nodes=rotations.nodes,
    algebra=infinitesimal_rotations,
    exp=exp_rotation,
)

o3 = Group(
    "o3",
    compose_matrices,
    jnp.transpose,
    random_orthogonal,
    subgroups=tuple((2 * order, _with_inversion(proper)) for order, proper in _SUBGROUPS),
    nodes=_orthogonal_nodes,
    algebra=infinitesimal_rotations,
    exp=exp_rotation,
)

octahedral = _matrix_group("octahedral", rotations.cube)
full_octahedral = _matrix_group("full_octahedral", _with_inversion(rotations.cube))


def paper16() -> Measure:
    """The training-dynamics paper's "16 axis-preserving 90-degree rotations": {Rx^a Rz^b}, equal weights.

    Not a group: the decomposition still adds up, but the average over it is not exactly equivariant.
    """
    return listed(octahedral, "paper16", rotations.paper16())


# --- permutations ----------------------------------------------------------------------------------------------


@functools.cache
def permutations(n: int) -> Group:
    """All permutations of `n` items: `haar(k)` samples them, `enumerate()` lists them up to n = 7."""
    check_count(n, "n")

    def elements():
        if n > 7:
            raise ValueError(f"permutations({n}) has more than {MAX_ENUMERATED:,} elements; sample with haar(k)")
        return np.array(list(itertools.permutations(range(n))))

    return Group(
        f"permutations({n})",
        multiply=lambda p, q: p[q],
        inverse=jnp.argsort,
        random=lambda key: jax.random.permutation(key, n),
        elements=elements,
    )


# --- translations ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Translations(Group):
    """Shifts of 3D space. Not compact: every measure on them is named, none is *the* measure."""

    def uniform(self, n: int, width: float) -> Measure:
        """`n` independent shifts, each component uniform in [-width/2, width/2] (units of the coordinates)."""
        check_count(n, "n")

        def shift(key):
            return jax.random.uniform(key, (3,), minval=-width / 2, maxval=width / 2)

        return independent(self, f"translations.uniform({n}, width={width:g})", shift, n)


translations = Translations(
    "translations", jnp.add, jnp.negative, algebra=functools.partial(np.eye, 3), exp=lambda shift: shift
)


# --- products --------------------------------------------------------------------------------------------------


def product(*measures: Measure) -> Measure:
    """The product of measures on several groups; elements are tuples, to be taken apart by `actions.on`.

    Inside a unit every combination of elements occurs. Measures with several units must have the same number of
    them and are paired unit by unit; a deterministic one is repeated. So haar(10) with enumerate() of 24 gives 10
    units of 24 elements, and haar(10) with haar(10) gives 10 joint draws.
    """
    if len(measures) < 2:
        raise ValueError(f"a product needs at least two measures, got {len(measures)}")
    counts = {m.n_units for m in measures if not m.deterministic} or {1}
    if len(counts) > 1:
        listing = ", ".join(f"{m.name}: {m.n_units}" for m in measures)
        raise ValueError(f"independent units must agree in number to be paired, got {listing}")
    n_units = counts.pop()
    sizes = [m.unit_size for m in measures]
    combinations = np.stack([i.ravel() for i in np.indices(sizes)])

    def draw(key):
        drawn = []
        for m, k, index in zip(measures, jax.random.split(key, len(measures)), combinations, strict=True):
            g = jax.tree.map(lambda a: jnp.broadcast_to(a, (n_units, *a.shape[1:])), m.draw(k))
            drawn.append(jax.tree.map(lambda a, index=index: a[:, index], g))
        return tuple(drawn)

    weights = None
    if any(m.weights is not None for m in measures):
        each = [np.full(m.unit_size, 1 / m.unit_size) if m.weights is None else m.weights for m in measures]
        weights = functools.reduce(np.multiply.outer, each).ravel()
    groups = tuple(m.group for m in measures)
    group = Group(
        " x ".join(g.name for g in groups),
        multiply=lambda a, b: tuple(g.multiply(x, y) for g, x, y in zip(groups, a, b, strict=True)),
        inverse=lambda a: tuple(g.inverse(x) for g, x in zip(groups, a, strict=True)),
    )
    return Measure(
        f"product({', '.join(m.name for m in measures)})",
        group,
        n_units=n_units,
        unit_size=int(np.prod(sizes)),
        draw=draw,
        weights=weights,
        deterministic=all(m.deterministic for m in measures),
    )
