"""What is known of a target by its last requests: how many failed, how long they took."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

LENGTH = 512


@dataclass(frozen=True)
class Window:
    """`requests` and `errors` of the window; `p50_seconds` and `p95_seconds` are None before the first answer."""

    requests: int
    errors: int
    p50_seconds: float | None
    p95_seconds: float | None


class TargetWindow:
    """The last requests that one target was asked."""

    def __init__(self) -> None:
        self.results: deque[tuple[bool, float]] = deque(maxlen=LENGTH)
        self.total = 0

    def add(self, answered: bool, seconds: float) -> None:
        self.results.append((answered, seconds))
        self.total += 1

    def read(self) -> Window:
        took = sorted(seconds for answered, seconds in self.results if answered)
        errors = len(self.results) - len(took)
        return Window(len(self.results), errors, percentile(took, 0.5), percentile(took, 0.95))


def percentile(ascending: list[float], share: float) -> float | None:
    """Returns the smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)] if ascending else None
