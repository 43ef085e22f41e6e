"""Whether quality fell, apart from whether requests shifted: from the hits that users took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

NORMAL = 1.959964
"""Of the 95 % interval."""


@dataclass(frozen=True)
class Quality:
    """A measure of quality, larger is better, of the reference and of the window, and the 95 % interval of its drop."""

    measure: str
    reference: float
    window: float
    drop_low: float
    drop_high: float
    answers: int

    @property
    def drop(self) -> float:
        return self.reference - self.window


def reciprocal_rank(reference: Iterable[int], window: Iterable[int]) -> Quality | None:
    """Returns the mean reciprocal rank of the hits that were taken (rank 0: none was right), and the interval of its
    drop (B. Welch 1947); None where a side has fewer than two answers."""
    sides = [np.array([1 / rank if rank else 0.0 for rank in ranks]) for ranks in (reference, window)]
    if min(map(len, sides)) < 2:
        return None
    before, now = (float(side.mean()) for side in sides)
    error = float(np.sqrt(sum(side.var(ddof=1) / len(side) for side in sides)))
    low, high = before - now - NORMAL * error, before - now + NORMAL * error
    return Quality("mean reciprocal rank", before, now, low, high, len(sides[1]))
