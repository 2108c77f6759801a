"""Shape buckets: a handful of padded lengths, so that few programs are compiled and little padding is computed."""

import numpy as np
from jaxtyping import Int


def bucket_lengths(lengths: Int[np.ndarray, " n"], most: int) -> list[int]:
    """Up to `most` padded lengths, ascending, that hold examples of these lengths with the least padding in all.

    Exact, by dynamic programming over the lengths that occur. Raises ValueError without an example or a bucket.
    """
    if not len(lengths) or most < 1:
        raise ValueError(f"{len(lengths)} lengths into {most} buckets: give at least one of each")
    values, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # examples before each value
    # cost[j]: fewest slots that hold the first j values; a further bucket from i to j pads all of them to values[j - 1]
    cost = np.concatenate([[0], values * below[1:]])
    starts = [np.zeros(len(values) + 1, int)]
    for _ in range(min(most, len(values)) - 1):
        total = cost[:, None] + (below - below[:, None]) * np.concatenate([[0], values])
        total[np.tril_indices(len(total), -1)] = np.iinfo(total.dtype).max
        starts.append(total.argmin(0))
        cost = total.min(0)
    chosen, j = [], len(values)
    for start in reversed(starts):
        if start[j] < j:
            chosen.append(int(values[j - 1]))
            j = int(start[j])
    return chosen[::-1]


def bucket_rows(lengths: Int[np.ndarray, " n"], padded: list[int]) -> list[np.ndarray]:
    """The rows of each bucket: every example in the shortest that holds it. Raises ValueError for a longer one."""
    if lengths.max() > padded[-1]:
        raise ValueError(
            f"example {lengths.argmax()} has length {lengths.max()}; the longest bucket holds {padded[-1]}"
        )
    bucket = np.searchsorted(padded, lengths)
    return [np.flatnonzero(bucket == b) for b in range(len(padded))]
