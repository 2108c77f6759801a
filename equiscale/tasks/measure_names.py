"""Measures by name, as configs and command lines write them."""

import ast
import re

import equiscale as es


def parse_measure(text: str) -> es.Measure:
    """A measure from its name as it is written in Python: "paper16()", "octahedral.haar(10)", "so3.coset(12, n=2)".

    Raises ValueError naming what is there for anything else.
    """
    groups = {name: getattr(es, name) for name in ("so3", "o3", "octahedral", "full_octahedral")}
    match = re.fullmatch(r"(?:(\w+)\.)?(\w+)\(([^()]*)\)", text.strip())
    name, method, arguments = match.groups() if match else (None, None, None)
    makers = ("haar", "coset", "enumerate", "quadrature", "normal")
    if match and ((name is None and method == "paper16") or (name in groups and method in makers)):
        parts = [part.strip() for part in arguments.split(",") if part.strip()]
        positional = [ast.literal_eval(part) for part in parts if "=" not in part]
        named = {k.strip(): ast.literal_eval(v) for k, v in (part.split("=") for part in parts if "=" in part)}
        try:
            return (es.paper16 if name is None else getattr(groups[name], method))(*positional, **named)
        except TypeError as error:
            raise ValueError(f"measure {text!r}: {error}") from error
    raise ValueError(
        f"{text!r} is no measure; write paper16() or GROUP.MEASURE(...) with GROUP one of {', '.join(groups)} and "
        f"MEASURE one of {', '.join(makers)}, e.g. octahedral.haar(10)"
    )
