"""What of a squared error no training like these can remove, from an ensemble of models.

Members of an ensemble differ by chance: by their start and the order of their batches. On average over chance the loss
of one is L + V and that of the mean of M of them L + V / M, with V the variance of predictions; L is what is left for
infinitely many. It is an upper bound on the irreducible loss: an error that all members share counts as irreducible.
"""

from collections.abc import Sequence

from jaxtyping import Array, Float

from equiscale.decomposition import SQUARED_ERROR, Decomposition


def irreducible(members: Sequence[Decomposition], average: Decomposition) -> Float[Array, " batch"]:
    """L of each example, for `decompose(..., irreducible=..., irreducible_from="ensemble")`; unbiased, so that it may
    be negative where it is small.

    `members` and `average`, the decomposition of the members' mean prediction, are of the same examples, made with
    `per_example=True`. Their twirled losses are taken: what imperfect symmetry adds can be removed. Raises ValueError
    for fewer than two members, for decompositions without examples, and for losses other than squared error.
    """
    n = len(members)
    if n < 2:
        raise ValueError(f"an ensemble of {n}: chance is told by two members or more")
    for d in (*members, average):
        if d.per_example is None or d.loss != SQUARED_ERROR:
            raise ValueError(f"decompositions of squared error with per_example=True are needed, got {d.loss}")
    one = sum(d.per_example["mean"] for d in members) / n
    return (n * average.per_example["mean"] - one) / (n - 1)
