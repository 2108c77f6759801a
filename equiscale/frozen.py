"""Split a function at its frozen part, so that what does not change is computed once.

The Hessian of a few parameters needs thousands of passes through the layers that hold them, and only one through the
rest. Which equations of a model depend on the chosen parameters can be read off its program, so no model has to be
cut by hand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from equiscale import program


class Split(NamedTuple):
    """`f(moving, varying)` in three steps: `constants`, then `known(varying)`, then `rest(moving, ...)`.

    `constants` depends on neither argument; the features known(varying) are those that `rest` reads.
    """

    constants: Callable[[], list[jax.Array]]
    known: Callable[[list[jax.Array], Any], list[jax.Array]]
    rest: Callable[[jax.Array, list[jax.Array], list[jax.Array]], jax.Array]


def split(f: Callable[[jax.Array, Any], jax.Array], moving: jax.Array, varying: Any, *, cache: bool = True) -> Split:
    """Split `f(moving, varying) -> array` by what depends on `moving`.

    With `cache=False` all that depends on either argument is left to `rest`: nothing is stored but `varying`.
    """
    leaves, structure = jax.tree.flatten(varying)
    traced = program.trace(lambda m, *v: [f(m, structure.unflatten(v))], moving, *leaves)
    first, others = traced.arguments[0], traced.arguments[1:]
    reached = {first: 2, **dict.fromkeys(others, 1 if cache else 2)}
    stages: tuple[list, list, list] = ([], [], [])
    for eqn in traced.equations:
        stage = max((reached.get(v, 0) for v in program.reads([eqn])), default=0)
        stages[stage].append(eqn)
        reached.update(dict.fromkeys(eqn.outvars, stage))

    wanted = program.reads(stages[2], traced.outputs)
    features = [v for v in wanted if reached.get(v, 0) == 1 or v in others]
    fixed = [
        v
        for v in dict.fromkeys([*wanted, *program.reads(stages[1], features)])
        if reached.get(v, 0) == 0 and v not in others
    ]

    def constants():
        run = jax.jit(lambda *values: program.evaluate(traced, traced.constants, stages[0], fixed, values))
        return run(*traced.values)

    def known(constants, varying):
        values = [*constants, *jax.tree.leaves(varying)]
        return program.evaluate(traced, [*fixed, *others], stages[1], features, values)

    def rest(moving, constants, features_):
        values = [moving, *constants, *features_]
        return program.evaluate(traced, [first, *fixed, *features], stages[2], traced.outputs, values)[0]

    return Split(constants, known, rest)
