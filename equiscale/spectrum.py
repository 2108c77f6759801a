"""Numbers from eigenvalues, with what they are worth in finite precision said beside them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of a symmetric matrix, ascending, and the size below which they are rounding.

    `noise` is n eps max|eigenvalue|, what a dense eigensolver may be wrong by: an eigenvalue below it may as well be
    zero or negative.
    """

    eigenvalues: Float[np.ndarray, " n"]
    noise: float

    @classmethod
    def of(cls, matrix: Float[np.ndarray, "m m"], n: int | None = None) -> "Spectrum":
        """Of a symmetric matrix (its lower triangle), by the dense solver of its precision; `n` as for `known`."""
        matrix = np.asarray(matrix)
        return cls.known(np.linalg.eigvalsh(matrix), np.finfo(matrix.dtype).eps, n)

    @classmethod
    def known(cls, eigenvalues: Float[np.ndarray, " m"], eps: float, n: int | None = None) -> "Spectrum":
        """Of eigenvalues found with relative precision `eps`; all others of `n` are zero."""
        found = np.asarray(eigenvalues, np.float64)
        found = np.sort(np.pad(found, (0, (n or len(found)) - len(found))))
        return cls(found, len(found) * eps * float(np.abs(found).max(initial=0)))

    @classmethod
    def of_squares(cls, singular_values: Float[np.ndarray, " n"]) -> "Spectrum":
        """Of J^T J from the singular values of J: its noise is their noise squared, twice as many digits."""
        found = np.asarray(singular_values)
        noise = len(found) * np.finfo(found.dtype).eps * float(found.max(initial=0))
        return cls(np.sort(found.astype(np.float64) ** 2), noise**2)

    @property
    def largest(self) -> float:
        return float(self.eigenvalues[-1])

    @property
    def smallest_positive(self) -> float:
        """The smallest eigenvalue above zero, rounding or not; NaN if there is none."""
        positive = self.eigenvalues[self.eigenvalues > 0]
        return float(positive[0]) if len(positive) else float("nan")

    @property
    def condition(self) -> float:
        """Largest over smallest positive eigenvalue: the condition number of the paper's section 3.4."""
        return self.largest / self.smallest_positive

    @property
    def condition_is_noise(self) -> bool:
        """Whether `condition` divides by rounding: the smallest positive eigenvalue is below the noise."""
        return not self.smallest_positive > self.noise

    @property
    def condition_above_noise(self) -> float:
        """Largest over the smallest eigenvalue above the noise: a lower bound where the matrix is singular."""
        above = self.eigenvalues[self.eigenvalues > self.noise]
        return self.largest / float(above[0]) if len(above) else float("nan")

    @property
    def rank(self) -> int:
        """Eigenvalues whose size is above the noise."""
        return int((np.abs(self.eigenvalues) > self.noise).sum())

    @property
    def n_negative(self) -> int:
        """Eigenvalues below minus the noise: directions in which the loss curves down."""
        return int((self.eigenvalues < -self.noise).sum())

    @property
    def effective_rank(self) -> float:
        """(sum |l|)^2 / sum l^2: how many directions carry the curvature; 1 for one, n for all alike."""
        size = np.abs(self.eigenvalues)
        return float(size.sum() ** 2 / (size**2).sum()) if size.any() else 0.0

    def quantile_ratio(self, quantile: float) -> float:
        """Largest over that quantile of all |eigenvalues|; infinite where the quantile is rounding."""
        value = float(np.quantile(np.abs(self.eigenvalues), quantile))
        return self.largest / value if value > self.noise else float("inf")

    def record(self) -> dict[str, Any]:
        names = ("largest", "smallest_positive", "noise", "condition", "condition_is_noise", "condition_above_noise")
        names += ("rank", "n_negative", "effective_rank")
        row = {name: getattr(self, name) for name in names}
        return {"n": len(self.eigenvalues), **row, "median_ratio": self.quantile_ratio(0.5)}

    def __str__(self) -> str:
        noise = " (divides by rounding)" if self.condition_is_noise else ""
        return (
            f"largest {self.largest:.3g}, condition number {self.condition:.2g}{noise}, "
            f"{self.condition_above_noise:.2g} above the noise of {self.noise:.1g}; rank {self.rank} of "
            f"{len(self.eigenvalues)}, effectively {self.effective_rank:.3g}; {self.n_negative} negative"
        )
