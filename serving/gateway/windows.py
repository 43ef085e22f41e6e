"""What is known of a target: how many requests failed, how long the last answers took."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

LENGTH = 1024


class TargetWindow:
    """All requests that a target was asked since it is watched, and the milliseconds of its last answers.

    A request that is refused for what is in it counts nowhere.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.latencies_ms: deque[float] = deque(maxlen=LENGTH)

    def add(self, answered: bool, seconds: float) -> None:
        self.requests += 1
        if answered:
            self.latencies_ms.append(seconds * 1000)
        else:
            self.errors += 1

    def facts(self) -> dict[str, Any]:
        """Returns the counts, and the quantiles of the latencies, None before the first answer."""
        took = sorted(self.latencies_ms)
        p50, p95 = (percentile(took, share) for share in (0.5, 0.95))
        return {"requests": self.requests, "errors": self.errors, "p50_ms": p50, "p95_ms": p95}


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """Returns the smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)] if ascending else None
