"""Times of variants that take turns, so that the ratios of a run stand on a shared machine too."""

import statistics
import sys
import time
from collections.abc import Callable

import jax


def seconds(variants: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median wall time of each variant in its stride: of two calls a turn the second counts, of the first turn none."""
    times = {name: [] for name in variants}
    for turn in range(turns + 1):
        for name, run in variants.items():
            _finish(run)
            start = time.perf_counter()
            _finish(run)
            if turn > 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def _finish(run: Callable[[], object]) -> None:
    jax.block_until_ready(run())
    torch = sys.modules.get("torch")  # of benchmarks that compare with it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
