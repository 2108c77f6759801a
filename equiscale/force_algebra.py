"""EScAIP's force head in closed form: its twirl, its loss components, and the quadratic form of Theorem 4.

The head predicts force_k = M_k . w_k for k = x, y, z, with M_i = s_i sum_j u_ij h_ij^T `[3, h]` of each atom: u unit
vectors, h and s invariant (Eq. 14 of the training-dynamics paper with the factor s its code has). A rotation T makes
T M of M and leaves the rest, so with t_k the rows of T the twisted prediction is

    z(T) = sum_k t_k (t_k . M w_k),        E_T t_k t_k^T = 1/3,

and everything follows without a single rotation. With w_mean the mean row, d_k = w_k - w_mean, and G the mean over
atoms of M_i^T M_i:

    twirl        mu_i = M_i w_mean
    mean loss    E_i |M_i w_mean - y_i|^2 / 3
    equiv loss   (1/9) sum_k d_k . G d_k              exactly, not to second order
    Q            (1/9) (1 - 11^T / 3) kron G          Eq. 28 per component: 1/D, which the paper's proof leaves out

So Q has h zero eigenvalues, the equivariant rows, and on their complement the eigenvalues of G / 9, each twice.

Means are over what the weights of the atoms say: all 1 for the mean over all atoms of a set; 1 over the number of atoms
in its molecule for the mean over molecules of each one's mean, which is the paper's and `equiscale.decompose`'s.
"""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from equiscale.decomposition import SQUARED_ERROR, VALUES, Decomposition
from equiscale.reduce import AxisName, Moments, psum
from equiscale.rotations import HIGHEST
from equiscale.subspace import force_head
from equiscale.theorems import Bounds, Law

# --- predictions -------------------------------------------------------------------------------------------------


def forces(moments: Float[Array, "*any 3 h"], weight: Float[Array, "3 h"]) -> Float[Array, "*any 3"]:
    """The head itself: force_k = M_k . w_k."""
    return jnp.einsum("...ch,ch->...c", moments, weight, precision=HIGHEST)


def twirled_forces(moments: Float[Array, "*any 3 h"], weight: Float[Array, "3 h"]) -> Float[Array, "*any 3"]:
    """Its average over all rotations, mu = M w_mean: that of the head whose rows are all their mean."""
    return forces(moments, jnp.broadcast_to(weight.mean(0), weight.shape))


def turn(g: Float[Array, "3 3"], moments: Float[Array, "*any 3 h"]) -> Float[Array, "*any 3 h"]:
    """How a rotation acts on moments, for `equiscale.Symmetry`.

    With it the head alone is decomposed, as the model `lambda m: forces(m, weight)` under `Symmetry(measure, turn,
    vectors)`: n rotations cost n heads and no backbone.
    """
    return jnp.einsum("cd,...dh->...ch", g.astype(moments.dtype), moments, precision=HIGHEST)


# --- the decomposition, atom by atom -----------------------------------------------------------------------------


def atom_losses(
    moments: Float[Array, "*any 3 h"], weight: Float[Array, "3 h"], target: Float[Array, "*any 3"]
) -> tuple[Float[Array, "*any"], Float[Array, "*any"]]:
    """Mean and equivariance loss of each atom, per component."""
    apart = jnp.einsum("...ch,kh->...ck", moments, force_head(weight).complement, precision=HIGHEST)
    mean = jnp.square(twirled_forces(moments, weight) - target).mean(-1)
    return mean, jnp.square(apart).sum((-2, -1)) / 9


def decompose(
    moments: Float[Array, "batch atoms 3 h"],
    weight: Float[Array, "3 h"],
    target: Float[Array, "batch atoms 3"],
    *,
    mask: Bool[Array, "batch atoms"],
    example_weight: Float[Array, " batch"] | None = None,
    axis_name: AxisName = None,
) -> Decomposition:
    """What `equiscale.decompose` estimates for direct forces, in closed form; results add up.

    Each molecule counts by the mean over its atoms (those of `mask`) times `example_weight`, 1 by default; the number
    of its atoms there makes it the mean over all atoms.
    """
    of_atoms = jnp.where(mask, 1 / jnp.maximum(mask.sum(-1, keepdims=True), 1), 0)

    def of_molecules(values):
        return jnp.sum(jnp.where(mask, of_atoms * values, 0), -1)

    mean, equiv = map(of_molecules, atom_losses(moments, weight, target))
    signal = of_molecules(jnp.square(twirled_forces(moments, weight)).mean(-1))
    example_weight = jnp.ones(len(mean)) if example_weight is None else example_weight
    example_weight = jnp.where(mask.any(-1), example_weight, 0)
    values = {
        "weight": jnp.ones_like(mean),
        "total": mean + equiv,
        "mean": mean,
        "equiv": equiv,
        "signal": signal,
        "floor": jnp.finfo(mean.dtype).eps ** 2 * (signal + equiv),
        "irreducible": jnp.zeros_like(mean),
    }
    rows = jnp.stack([example_weight * values[name] for name in VALUES], -1)
    return Decomposition(
        Moments.of(rows, example_weight > 0).psum(axis_name),
        None,
        measure="so3",
        estimator="closed form",
        loss=SQUARED_ERROR,
        space="prediction",
        irreducible_from=None,
    )


# --- the losses as functions of the head's weights ---------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeadSums:
    """All that the loss components as functions of the head's weights depend on: sums over atoms.

    They add up over batches, and over devices by `psum`. Both loss and curvature lose digits in these sums (the mean
    loss is a difference of squares, G's condition number is often beyond 1e6), so make them `in_float64`.
    """

    atoms: Float[Array, ""]  # summed weights of atoms
    gram: Float[Array, "h h"]  # of M^T M
    cross: Float[Array, " h"]  # of M^T y
    power: Float[Array, ""]  # of |y|^2

    @classmethod
    def of(
        cls,
        moments: Float[Array, "*any 3 h"],
        target: Float[Array, "*any 3"],
        atom_weight: Float[Array, "*any"],
    ) -> "HeadSums":
        """Of the atoms of a batch, in its precision; what atoms of weight 0 hold does not matter."""
        keep = atom_weight[..., None] > 0
        root = jnp.sqrt(atom_weight).astype(moments.dtype)[..., None]
        rows = jnp.where(keep[..., None], root[..., None] * moments, 0).reshape(-1, moments.shape[-1])
        y = jnp.where(keep, root * target, 0).reshape(-1)
        product = jnp.matmul
        gram, cross = product(rows.T, rows, precision=HIGHEST), product(rows.T, y, precision=HIGHEST)
        return cls(atom_weight.sum().astype(rows.dtype), gram, cross, jnp.square(y).sum())

    @classmethod
    def in_float64(cls, moments: Array, target: Array, atom_weight: Array) -> "HeadSums":
        """The same, summed in float64 whatever came, as host arrays."""
        with jax.enable_x64(True):
            arrays = (jnp.asarray(np.asarray(a), jnp.float64) for a in (moments, target, atom_weight))
            return jax.device_get(jax.jit(cls.of)(*arrays))

    def __add__(self, other: "HeadSums") -> "HeadSums":
        return jax.tree.map(operator.add, self, other)

    def __radd__(self, other):
        return self if other == 0 else NotImplemented  # so that sum(...) works

    def psum(self, axis_name: AxisName) -> "HeadSums":
        """The sums over all devices of a mapped axis; a plain call (None) changes nothing."""
        return psum(self, axis_name)

    @property
    def mean_gram(self) -> Float[Array, "h h"]:
        """G."""
        return self.gram / self.atoms


def losses(sums: HeadSums, weight: Float[Array, "3 h"]) -> dict[str, Float[Array, ""]]:
    """total, mean and equiv."""
    row, apart = weight.mean(0), force_head(weight).complement
    with jax.default_matmul_precision("highest"):
        mean = (row @ (sums.gram @ row) - 2 * (row @ sums.cross) + sums.power) / (3 * sums.atoms)
        equiv = ((apart @ sums.gram) * apart).sum() / (9 * sums.atoms)
    return {"total": mean + equiv, "mean": mean, "equiv": equiv}


def gradients(sums: HeadSums, weight: Float[Array, "3 h"]) -> dict[str, Float[Array, "3 h"]]:
    """Their gradients: (2/9) (G w_mean - b) in every row with b = E M^T y, and (2/9) G d_k in row k."""
    apart = force_head(weight).complement
    with jax.default_matmul_precision("highest"):
        mean = weight.mean(0) @ sums.gram - sums.cross
        equiv = apart @ sums.gram
    scale = 2 / (9 * sums.atoms)
    mean, equiv = scale * (mean + 0 * apart), scale * equiv
    return {"total": mean + equiv, "mean": mean, "equiv": equiv}


# --- curvature, on the host --------------------------------------------------------------------------------------

_MEAN = np.full((3, 3), 1 / 3)  # onto rows that are equal, among the three axes


def quadratic_form(sums: HeadSums) -> Float[np.ndarray, "3*h 3*h"]:
    """Q of Eq. 28, equiv = vec(W)^T Q vec(W): singular, for it is zero on heads of equal rows."""
    return np.kron(np.eye(3) - _MEAN, sums.mean_gram) / 9


def hessians(sums: HeadSums) -> dict[str, Float[np.ndarray, "3*h 3*h"]]:
    """Of mean and equivariance loss with respect to the weights, row after row; whatever the weights are.

    Their sum is (2/9) 1 kron G. Their non-zero eigenvalues are the same, (2/9) those of G, once and twice: on the head
    alone both losses are equally conditioned.
    """
    return {"mean": 2 / 9 * np.kron(_MEAN, sums.mean_gram), "equiv": 2 * quadratic_form(sums)}


def bounds(sums: HeadSums, weight: Float[Array, "3 h"]) -> Bounds:
    """Theorem 4: lowest |W_perp|^2 <= equiv <= highest |W_perp|^2 with the extreme eigenvalues of G / 9.

    G is singular with fewer than h / 3 atoms, and its lowest eigenvalue worth little with fewer than ten times that.
    Theorem 6's constant is twice `highest`.
    """
    values = np.linalg.eigvalsh(np.asarray(sums.mean_gram)) / 9
    apart = np.asarray(force_head(np.asarray(weight, np.float64)).complement)
    equiv = float(losses(sums, weight)["equiv"])
    return Bounds(float(values[0]), float(values[-1]), float(np.square(apart).sum()), equiv, twin=0.0)


def law(sums: HeadSums, weight: Float[Array, "3 h"], s: Float[np.ndarray, " n"]) -> Law:
    """The losses of W_E + s W_perp: equiv is quadratic in s for all s, and mean constant."""
    found = [losses(sums, force_head(weight).scaled(t)) for t in s]
    return Law(np.asarray(s), *(np.array([row[part] for row in found]) for part in ("mean", "equiv")))
