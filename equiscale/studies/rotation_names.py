"""Rotations in words, for tables and figures."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation


def rotation_name(turn: Float[np.ndarray, "3 3"]) -> str:
    """A rotation as its angle and axis: 90° about x, 120° about x+y-z."""
    rotation = Rotation.from_matrix(turn)
    angle = rotation.magnitude()
    if angle < 1e-6:
        return "none"
    axis = rotation.as_rotvec() / angle
    axis *= np.sign(axis[np.abs(axis) > 1e-6][0]) if np.isclose(angle, np.pi) else 1
    scaled = axis / np.abs(axis).max()
    if np.allclose(np.abs(scaled), np.rint(np.abs(scaled)), atol=1e-6):
        signed = [("+" if s > 0 else "-") + name for s, name in zip(scaled, "xyz", strict=True) if abs(s) > 0.5]
        where = "".join(signed).removeprefix("+")
    else:
        where = " ".join(f"{a:.3f}" for a in axis)
    return f"{np.degrees(angle):.0f}° about {where}"
