"""Where a run's time goes, and the line that says how it does."""

import contextlib
import time
from collections.abc import Iterator

KINDS = ("compile", "train", "evaluate", "save", "profile")


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


def speed(seconds: float, steps: int, examples: int, flops: int, peak: float | None) -> dict[str, float | None]:
    """Steps, examples and FLOP a second, and the share of the devices' peak where both are known."""
    measured = steps > 0 and seconds > 0
    per_second = flops / seconds if measured else None
    return {
        "steps_per_second": steps / seconds if measured else None,
        "examples_per_second": examples / seconds if measured else None,
        "flops_per_second": per_second,
        "share_of_peak": per_second / peak if per_second and peak else None,
    }
