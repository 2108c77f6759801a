"""Any intermediate of any JAX function, without changing the function.

A traced function is a list of equations, and each equation remembers the names of the scopes it was made in: linen
modules and Equinox layers open one each, elsewhere `jax.named_scope` does (nnx opens none). So an intermediate is named
by scope, primitive and a counter, "VoxelUNet/middle_2/res:add#0", or by a whole scope, "VoxelUNet/middle_2", for
what leaves it last:

    list(intermediates(f, x))                  # what there is, in program order
    latent = capture(f, "*/middle_2")          # the same arguments, another result
    jax.vmap(jax.grad(lambda x: latent(x).sum()))

The list is cut at the intermediate: what it does not depend on is not computed.
"""

import difflib
import fnmatch
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex

from equiscale.program import Program, evaluate, is_variable, trace


def intermediates(f: Callable, *args: Any, **kwargs: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of the intermediates of `f(*args, **kwargs)`, in program order; nothing is computed.

    Arguments are arrays or `jax.ShapeDtypeStruct`s, or pytrees of them; leaves that are neither (numbers, flags,
    functions) are passed to `f` as they are. An equation with several results has them numbered, "...:split#0.1".
    """
    program, _ = _trace(f, args, kwargs)
    return {name: jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for name, v in _labels(program).items()}


def capture(f: Callable, name: str) -> Callable[..., jax.Array]:
    """The function of the same arguments that returns the intermediate `name` of `f`.

    `name` is one of `intermediates`, a scope (for its last result that is used outside it), or a glob such as
    "*/middle_2" or "*/stem:add*" that fits exactly one of them; names of intermediates come before scopes.

    The result can be differentiated (custom rules of `f` included), vmapped and jitted, and should be jitted where
    speed counts: every call traces `f` anew, since what `f` closes over may have changed.

    Calling it raises ValueError where nothing fits, naming the nearest, or several do, naming them.
    """

    def captured(*args, **kwargs):
        program, arrays = _trace(f, args, kwargs)
        variable = _find(program, name)
        needed, kept = {variable}, []
        for eqn in reversed(program.equations):
            if needed.intersection(eqn.outvars):
                kept.append(eqn)
                needed.update(filter(is_variable, eqn.invars))
        inputs = [*program.constants, *program.arguments]
        return evaluate(program, inputs, kept[::-1], [variable], [*program.values, *arrays])[0]

    return captured


def _trace(f: Callable, args: tuple, kwargs: dict) -> tuple[Program, list[Any]]:
    """The program of f in the arrays among its arguments, and these arrays."""
    leaves, structure = jax.tree.flatten((args, kwargs))

    def of_arrays(*arrays):
        given = iter(arrays)
        args, kwargs = structure.unflatten([next(given) if _is_array(leaf) else leaf for leaf in leaves])
        return list(filter(_is_array, jax.tree.leaves(f(*args, **kwargs))))

    arrays = list(filter(_is_array, leaves))
    return trace(of_arrays, *arrays), arrays


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _results(eqn: jex.JaxprEqn) -> dict[int, jex.Var]:
    """The results of an equation that are arrays, by position."""
    return {i: v for i, v in enumerate(eqn.outvars) if not isinstance(v, jex.DropVar) and _is_array(v.aval)}


def _labels(program: Program) -> dict[str, jex.Var]:
    seen, labels = Counter(), {}
    for eqn, scope in zip(program.equations, program.scopes, strict=True):
        stem = f"{scope}:{eqn.primitive.name}" if scope else eqn.primitive.name
        name = f"{stem}#{seen[stem]}"
        seen[stem] += 1
        labels |= {name if len(eqn.outvars) == 1 else f"{name}.{i}": v for i, v in _results(eqn).items()}
    return labels


def _last_of_scopes(program: Program) -> dict[str, jex.Var]:
    """The last result of each scope that is used outside it, or if none is the last at all."""
    readers = defaultdict(set)
    for eqn, scope in zip(program.equations, program.scopes, strict=True):
        for v in filter(is_variable, eqn.invars):
            readers[v].add(f"{scope}/")
    for v in filter(is_variable, program.outputs):
        readers[v].add("/")
    last, leaving = {}, {}
    for eqn, scope in zip(program.equations, program.scopes, strict=True):
        parts = scope.split("/") if scope else []
        for prefix in ("/".join(parts[: i + 1]) for i in range(len(parts))):
            for v in _results(eqn).values():
                last[prefix] = v
                if not all(reader.startswith(f"{prefix}/") for reader in readers[v]):
                    leaving[prefix] = v
    return last | leaving


def _find(program: Program, name: str) -> jex.Var:
    """The intermediate of that name. Raises ValueError if there is none, or more than one."""
    tables = (_labels(program), _last_of_scopes(program))
    for table in tables:
        if name in table:
            return table[name]
    for table in tables:
        fitting = fnmatch.filter(table, name)
        if len(fitting) == 1:
            return table[fitting[0]]
        if fitting:
            more = f" and {len(fitting) - 12} more" if len(fitting) > 12 else ""
            raise ValueError(f"{name!r} fits {len(fitting)} intermediates: {', '.join(fitting[:12])}{more}")
    names = [*tables[1], *tables[0]]
    nearest = difflib.get_close_matches(name, names, n=6, cutoff=0.3) or names[:6]
    raise ValueError(f"no intermediate is called {name!r}; the nearest of {len(names)} are {', '.join(nearest)}")
