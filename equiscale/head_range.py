"""Where the Hessians of a force head and the network before it can differ from zero: half of their rows and columns.

The head's forces are linear in the network's last layer A [a, h] (its bias the last row) and in the head's rows w_k,
and know A by its products with these rows alone (`equiscale.force_algebra`): any loss is

    L = F(A w_x, A w_y, A w_z, everything else).

With g_k = dF / d(A w_k), A's gradient is sum_k g_k w_k^T. Any step changes it by v_k w_k^T with some v_k, and a step
dw_k by g_k dw_k^T besides. So of the a h directions of A the Hessian reaches v w_k^T and g_k e^T, with any v and e:
where r_g of the g_k and r_w of the w_k are independent a h - (a - r_g) (h - r_w), which for EScAIP's 33,408 parameters
leaves 17,658 in all, of both losses together. The other eigenvalues are zero whatever the weights, and a condition
number over the smallest positive one divides by their rounding.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from equiscale.components import Components, Vector

HEAD = "force_head/weight"
LAST = ("force_head/network/out/kernel", "force_head/network/out/bias")


class Range(NamedTuple):
    """A space of directions: those whose coordinates, once the block is turned, are all zero but the kept ones."""

    kept: Int[np.ndarray, " m"]
    block: Int[np.ndarray, "a h"]  # where the entries of A stand in the vector
    left: Float[np.ndarray, "a a"]  # orthogonal, as `right`: A is turned into left^T A right
    right: Float[np.ndarray, "h h"]

    def restrict(self, directions: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b m"]:
        """Coordinates of what of the directions lies in the space."""
        turned = np.array(directions)
        turned[:, self.block] = self.left.T @ turned[:, self.block] @ self.right
        return turned[:, self.kept]

    def lift(self, coordinates: Float[np.ndarray, "b m"], n: int) -> Float[np.ndarray, "b n"]:
        """The directions with these coordinates, of `n` entries."""
        found = np.zeros((len(coordinates), n), coordinates.dtype)
        found[:, self.kept] = coordinates
        found[:, self.block] = self.left @ found[:, self.block] @ self.right.T
        return found


def head_range(of: Components, vector: Vector | None = None) -> Range | None:
    """The range of the Hessians of mean and equivariance loss; None if head and last layer are not both chosen.

    Whatever other parameters are chosen is kept whole. None, too, if the head's rows do not span three dimensions.
    """
    if not {HEAD, *LAST} <= set(of.names):
        return None
    vector = of.vector if vector is None else vector

    def leaves(v):
        with of.precision():
            return {name: np.asarray(leaf) for name, leaf in of.unravel(v).items()}

    def last(v):
        chosen = leaves(v)
        return np.concatenate([chosen[LAST[0]], chosen[LAST[1]][None]])

    rows = leaves(vector)[HEAD]
    if np.linalg.matrix_rank(rows) < len(rows):
        return None  # then A's gradient does not tell the g_k apart
    found = of.gradients(vector)
    slopes = [last(found[part]) for part in ("mean", "equiv")]
    # Each at its own scale: the directions of the smaller loss count as much.
    left, of_slopes = _basis(np.concatenate([a / (np.linalg.norm(a) or 1) for a in slopes], 1))
    right, of_rows = _basis(rows.T)
    block = last(np.arange(of.n, dtype=of.vector.dtype)).astype(int)
    outside = block[of_slopes:, of_rows:]  # in turned coordinates
    return Range(np.setdiff1d(np.arange(of.n), outside), block, left, right)


def _basis(columns: Float[np.ndarray, "d c"]) -> tuple[Float[np.ndarray, "d d"], int]:
    """An orthogonal matrix whose first columns span these, and how many do."""
    u, s, _ = np.linalg.svd(columns)
    return u, int((s > max(columns.shape) * np.finfo(s.dtype).eps * s[0]).sum())
