"""What training molecules are turned by, by name: random rotations, one an example; and how they are moved."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import equiscale as es
from equiscale import actions, rotations
from equiscale.tasks.molecule_sets import Structures

Rotation = Float[Array, "3 3"]
Positions = Float[Array, "n atoms 3"]


def euler_angles(key: PRNGKeyArray) -> Rotation:
    """Rz(c) Ry(b) Rx(a) with a, b, c uniform over the circle: VoxMol's own sampler, which is not Haar.

    A third of the mass too much turns x towards z: E[R_31^2] = 1/2, where Haar has 1/3.
    """
    (ca, cb, cc), (sa, sb, sc) = (f(jax.random.uniform(key, (3,), maxval=2 * jnp.pi)) for f in (jnp.cos, jnp.sin))
    x = jnp.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    y = jnp.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    z = jnp.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return jnp.linalg.multi_dot([z, y, x], precision=rotations.HIGHEST)


def one_of_paper16(key: PRNGKeyArray) -> Rotation:
    """One of the training-dynamics paper's 16 turns of the cube, which are no group."""
    return jnp.asarray(rotations.paper16(), jnp.float32)[jax.random.randint(key, (), 0, 16)]


AUGMENTATIONS: dict[str, Callable[[PRNGKeyArray], Rotation] | None] = {
    "none": None,
    "cube": es.octahedral.random,
    "paper16": one_of_paper16,
    "haar": es.so3.random,
    "euler": euler_angles,
}


def augment(
    augmentation: str, translation: float = 0.0, act_labels: Any = es.trivial
) -> Callable[[Structures, PRNGKeyArray], Structures]:
    """`(rows, key) -> rows`: each molecule turned, with its labels, by one of `AUGMENTATIONS`, then moved as a whole.

    It is moved by up to `translation` angstrom along each axis, which labels do not see. Raises ValueError for an
    unknown augmentation.
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation {augmentation!r} is none of {', '.join(AUGMENTATIONS)}")
    turn = AUGMENTATIONS[augmentation]

    def augmented(rows: Structures, key: PRNGKeyArray) -> Structures:
        positions, labels = rows.positions, rows.labels
        n = len(positions)
        if turn is not None:
            g = jax.vmap(turn)(jax.random.split(key, n))
            positions = jax.vmap(es.vectors)(g, positions)
            labels = actions.apply(act_labels, g, labels)
        if translation:
            shift_key = jax.random.fold_in(key, 0)
            positions = positions + jax.random.uniform(shift_key, (n, 1, 3), minval=-translation, maxval=translation)
        return rows._replace(positions=positions, labels=labels)

    return augmented
