"""`e3nn_jax`, imported by the first network that asks for something of it: two fifths of a command's start else."""

from typing import Any


def __getattr__(name: str) -> Any:
    import e3nn_jax

    return getattr(e3nn_jax, name)
