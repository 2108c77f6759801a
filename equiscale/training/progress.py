"""Where a run's time goes, and the line that says how it does."""

import contextlib
import time
from collections.abc import Iterator

KINDS = ("compile", "train", "evaluate", "save")


class Spent:
    """Seconds of wall-clock by kind."""

    def __init__(self):
        self.seconds = dict.fromkeys(KINDS, 0.0)

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - began

    def rounded(self) -> dict[str, float]:
        return {kind: round(value, 3) for kind, value in self.seconds.items()}


def speed(
    steps: int, seconds: float, batch_size: int, flops: float | None, peak: float | None
) -> dict[str, float | None]:
    """Steps, examples and estimated FLOP a second, and the share of the devices' peak where both are known."""
    rate = steps / seconds if steps and seconds > 0 else None
    per_second = None if rate is None or not flops else rate * flops
    return {
        "steps_per_second": rate,
        "examples_per_second": None if rate is None else rate * batch_size,
        "flops_per_second": per_second,
        "share_of_peak": None if per_second is None or not peak else per_second / peak,
    }
