"""The similarity of the best hit: falls where the corpus or the preprocessing no longer fits the queries.

Source: A. Kolmogorov 1933, N. Smirnov 1939 (the two-sample statistic), with permutations instead of its limit.
"""

from __future__ import annotations

from typing import Literal

from components.sections import Section
from monitoring.permutations import Measured, Samples, distribution_shift


class Settings(Section):
    name: Literal["top_score"] = "top_score"


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the largest distance of the two distribution functions, 0 to 1; the medians are in the detail."""
    return distribution_shift(samples, "top_score")
