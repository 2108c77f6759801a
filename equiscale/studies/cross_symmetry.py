"""How equivariant is a model to groups it was never shown? One loss, decomposed under several symmetries.

A `Case` is a group with its actions on input, output and target; all are measured on the same inputs, noise included,
as the training log measures rotations. The percentage is the share of the loss over the orbit, E_g |f(g x) - g y|^2,
that comes from f treating g x otherwise than x. What it says depends on whether the task has the symmetry, that is,
whether (g x, g y) is as likely as (x, y):

- where it has, the best model reads 0, and the percentage is a cost, as for rotations;
- where it has not (elements exchanged, space torn), the best model need not read 0, and f(g x) has no reason to be
  near g y: a low number says that f does not look at what g changes, a high one that it does. These are what a low
  number for rotations stands against.

`plain` is the loss of the inputs as they are: total / plain tells how far a group takes f from what it knows, and
equiv / plain compares groups where the percentages saturate, because the total grows with the equivariance error.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import equiscale as es
from equiscale.data.voxels import Grid
from equiscale.decomposition import Decomposition
from equiscale.measures import listed
from equiscale.tasks.denoise_points import Points
from equiscale.tasks.task import Params, Task

EXCHANGED = 4  # elements, of the first in the list: as many permutations as the cube has rotations
TRANSLATION = 0.5  # angstrom along each axis, one standard deviation


class Case(NamedTuple):
    """A symmetry to measure, whether the task has it, and in words what a group element does to input and target."""

    symmetry: es.Symmetry
    of_task: bool
    acts: str


# --- actions of groups that no network should know ---------------------------------------------------------------


def octants(g: Float[Array, "3 3"], x: Float[Array, "*any n n n"]) -> Float[Array, "*any n n n"]:
    """Turn each octant of a grid about its own centre. Raises ValueError for a side that is not even."""
    *rest, n = x.shape[:-2]
    if n % 2:
        raise ValueError(f"octants turns grids of even side, got shape {list(x.shape)}")
    split = jnp.reshape(x, (*rest, *(2, n // 2) * 3))
    k = len(rest)
    order = (*range(k), k, k + 2, k + 4, k + 1, k + 3, k + 5)
    turned = es.grid(g, split.transpose(order))
    return turned.transpose(np.argsort(order)).reshape(x.shape)


def scrambled(length: int, seed: int = 0) -> Callable:
    """Turn a grid of side `length` whose voxels were put elsewhere, and put them back: P^-1 g P, P fixed and random."""
    order = np.random.default_rng(seed).permutation(length**3)
    back = np.argsort(order)

    def act(g, x):
        def reordered(x, index):
            return x.reshape(*x.shape[:-3], -1)[..., index].reshape(x.shape)

        return reordered(es.grid(g, reordered(x, order)), back)

    return act


def half_of_atoms(g: Float[Array, "3 3"], x: Float[Array, "atoms 3"]) -> Float[Array, "atoms 3"]:
    """Turn the atoms in every other place and leave the rest where they are."""
    return jnp.where((jnp.arange(x.shape[0]) % 2 == 1)[:, None], es.vectors(g, x), x)


def relabel(g: Int[Array, " elements"], labels: Int[Array, " atoms"]) -> Int[Array, " atoms"]:
    """Element i becomes element g[i]; labels count from 1, and 0 stays padding."""
    return jnp.concatenate([jnp.zeros(1, g.dtype), g + 1])[labels]


# --- what is measured of each task -------------------------------------------------------------------------------


def inversion() -> es.Measure:
    """The identity and x -> -x, which is a mirror image and a half turn: reflections alone."""
    return listed(es.full_octahedral, "inversion", np.stack([np.eye(3), -np.eye(3)]))


def exchanges(elements: Sequence[str]) -> es.Measure:
    """All permutations of the first `EXCHANGED` elements of a list, as permutations of the whole list."""
    n = min(EXCHANGED, len(elements))
    first = np.asarray(es.permutations(n).enumerate().draw(None)[0])
    rest = np.broadcast_to(np.arange(n, len(elements)), (len(first), len(elements) - n))
    return listed(
        es.permutations(len(elements)), f"permutations of {' '.join(elements[:n])}", np.concatenate([first, rest], 1)
    )


def voxel_cases(grid: Grid, reach: int = 1) -> dict[str, Case]:
    """For `denoise_voxels`. Every group acts on the target as it does on the input, as the network maps grid to grid.

    Shifts by up to `reach` voxels go round the faces. White noise is none the worse for it, and molecules keep away
    from the faces; `wrapped_share` tells how much of them crosses one nevertheless.
    """

    def case(measure, action, of_task, acts):
        return Case(es.Symmetry(measure, action, action), of_task, acts)

    cube, both = es.octahedral.enumerate(), es.full_octahedral.enumerate()
    shifts, swaps = es.grid_shifts(grid.length).within(reach), exchanges(grid.elements)
    return {
        "rotations": case(cube, es.grid, True, "turns the grid"),
        "rotations and reflections": case(both, es.grid, True, "turns or mirrors the grid"),
        "inversion": case(inversion(), es.grid, True, "mirrors the grid through its centre"),
        "translations": case(shifts, es.roll, True, f"shifts the grid by up to {reach} voxel(s), round its faces"),
        "element channels": case(swaps, es.permute(0), False, "exchanges channels: other elements, same places"),
        "octants": case(cube, octants, False, "turns each octant about its own centre"),
        "scrambled rotations": case(cube, scrambled(grid.length), False, "turns what a fixed permutation made"),
    }


def point_cases(elements: Sequence[str], n_atoms: int) -> dict[str, Case]:
    """For `denoise_points`. A target holds positions only: it turns and moves with the input's, and keeps its place
    when elements are exchanged; `n_atoms` counts padding."""

    def positions(measure, action, of_task, acts):
        return Case(es.Symmetry(measure, Points(action, es.trivial), action), of_task, acts)

    cube, both = es.octahedral.enumerate(), es.full_octahedral.enumerate()
    shifts = es.translations.normal(24, TRANSLATION)
    order, swaps = es.permutations(n_atoms).haar(24), exchanges(elements)
    return {
        "rotations": positions(cube, es.vectors, True, "turns the molecule by a rotation of the cube"),
        "all rotations": positions(es.so3.coset(12, n=2), es.vectors, True, "turns the molecule by any rotation"),
        "rotations and reflections": positions(both, es.vectors, True, "turns or mirrors the molecule"),
        "inversion": positions(inversion(), es.vectors, True, "mirrors the molecule through its centre"),
        "translations": positions(shifts, es.translate, True, f"moves the molecule, by {TRANSLATION:g} Å an axis"),
        "atom order": Case(
            es.Symmetry(order, Points(es.permute(0), es.permute(0)), es.permute(0)), True, "lists the atoms otherwise"
        ),
        "elements": Case(
            es.Symmetry(swaps, Points(es.trivial, relabel), es.trivial), False, "exchanges elements, same places"
        ),
        "half of the atoms": positions(cube, half_of_atoms, False, "turns every other atom and leaves the rest"),
    }


def wrapped_share(clean: Float[Array, "n channels x y z"], reach: int) -> float:
    """The share of the density that crosses a face, averaged over the shifts by up to `reach` voxels."""
    density = np.asarray(clean, float).sum((0, 1))
    length = density.shape[0]
    places = np.indices(density.shape)
    crossing = []
    for shift in np.ndindex(*(2 * reach + 1,) * 3):
        moved = places + (np.array(shift) - reach)[:, None, None, None]
        crossing.append(density[((moved < 0) | (moved >= length)).any(0)].sum())
    return float(np.mean(crossing) / density.sum())


# --- measuring -----------------------------------------------------------------------------------------------------


def make_measure(task: Task, symmetry: es.Symmetry) -> Callable[[Params], Decomposition]:
    """params -> the loss of all validation batches decomposed under that symmetry, compiled once.

    Without the task's irreducible loss, which is that of its own symmetry.
    """
    known = {"irreducible": None, "irreducible_from": None}
    evaluate = jax.jit(lambda params, batch: task._replace(symmetry=symmetry).evaluate(params, batch, **known))
    return lambda params: sum(evaluate(params, batch) for batch in task.validation)


def measure(task: Task, cases: Mapping[str, Case], checkpoints: Iterable[tuple[int, Params]]) -> list[dict[str, Any]]:
    """One row a checkpoint and case: the decomposition's record with `step`, `symmetry`, `of_task`, and `plain`.

    Raises FloatingPointError where a decomposition does not add up.
    """
    only_itself = listed(es.octahedral, "identity", np.eye(3)[None])
    of_plain = make_measure(task, es.Symmetry(only_itself, es.trivial, es.trivial))
    measures = {name: make_measure(task, case.symmetry) for name, case in cases.items()}
    rows = []
    for step, params in checkpoints:
        plain = of_plain(params).total.item()
        for name, of_case in measures.items():
            found = of_case(params).check().record()
            rows.append({"step": step, "symmetry": name, "of_task": cases[name].of_task, "plain": plain, **found})
    return rows
