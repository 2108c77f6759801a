"""A function as its list of equations, so that it can be cut: at an intermediate, or at its frozen part."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex

# Calls whose body is inlined. Rematerialisation changes where values are kept, not what they are. Bodies of scan,
# while, cond and of custom derivative rules stay closed: they run any number of times, or carry a rule that inlining
# would lose.
INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}


class Program(NamedTuple):
    """A traced function without nested calls."""

    traced: jex.Jaxpr
    constants: list[jex.Var]  # what the function closes over
    values: list[Any]  # of the constants
    arguments: list[jex.Var]
    equations: list[jex.JaxprEqn]
    scopes: list[str]  # the name scope of each equation, "" outside any
    outputs: list[Any]


def trace(f: Callable[..., list], *args: Any) -> Program:
    """The program of `f(*args)`, a function of arrays or shapes that returns a list of arrays; nothing is computed."""
    closed = jax.make_jaxpr(f)(*args)
    constants, values = list(closed.jaxpr.constvars), list(closed.consts)
    equations: list[jex.JaxprEqn] = []
    scopes: list[str] = []

    def inline(jaxpr: jex.Jaxpr, meaning: dict[jex.Var, Any], scope: str) -> list[Any]:
        """Append the equations of a body whose inputs stand for what `meaning` says; what its outputs stand for."""

        def read(atom):
            return meaning[atom] if is_variable(atom) else atom

        for eqn in jaxpr.eqns:
            inside = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
            invars = [read(atom) for atom in eqn.invars]
            body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name in INLINED and body is not None:
                bound = []
                if isinstance(body, jex.ClosedJaxpr):
                    bound = [jex.Var(v.aval) for v in body.jaxpr.constvars]
                    constants.extend(bound)
                    values.extend(body.consts)
                    body = body.jaxpr
                inner = dict(zip([*body.constvars, *body.invars], [*bound, *invars], strict=True))
                meaning.update(zip(eqn.outvars, inline(body, inner, inside), strict=True))
                continue
            outvars = [v if isinstance(v, jex.DropVar) else jex.Var(v.aval) for v in eqn.outvars]
            meaning.update(zip(eqn.outvars, outvars, strict=True))
            equations.append(eqn.replace(invars=invars, outvars=outvars))
            scopes.append(inside)
        return [read(atom) for atom in jaxpr.outvars]

    inputs = [*constants, *closed.jaxpr.invars]
    outputs = inline(closed.jaxpr, {v: v for v in inputs}, "")
    return Program(closed.jaxpr, constants, values, list(closed.jaxpr.invars), equations, scopes, outputs)


def evaluate(
    program: Program,
    inputs: list[jex.Var],
    equations: list[jex.JaxprEqn],
    outputs: list[Any],
    values: Iterable[Any],
) -> list:
    """The outputs of some of a program's equations for given values of the inputs; custom derivatives are kept."""
    part = program.traced.replace(constvars=[], invars=inputs, eqns=equations, outvars=outputs)
    return jax.core.eval_jaxpr(part, [], *values)


def is_variable(atom: Any) -> bool:
    return not isinstance(atom, jex.Literal)


def reads(equations: Iterable[jex.JaxprEqn], outputs: Iterable[Any] = ()) -> list[jex.Var]:
    """Every variable that the equations and outputs read, once each, in order."""
    atoms = [atom for eqn in equations for atom in eqn.invars] + list(outputs)
    return list(dict.fromkeys(filter(is_variable, atoms)))
