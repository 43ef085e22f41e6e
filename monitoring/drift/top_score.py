"""The similarity of the best hit: falls where the corpus or the preprocessing no longer fits the queries.

Source: A. Kolmogorov 1933, N. Smirnov 1939 (the two-sample statistic), with permutations instead of its limit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from components.sections import Section
from monitoring.permutations import Measured, Samples, kolmogorov_smirnov


class Settings(Section):
    name: Literal["top_score"] = "top_score"


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the largest distance of the two distribution functions, 0 to 1; the medians are in the detail."""
    values, samples = samples.known("top_score")
    distances = kolmogorov_smirnov(values, samples)
    medians = {
        "window": float(np.median(values[samples.ways[0]])),
        "reference": float(np.median(values[~samples.ways[0]])),
    }
    return Measured(distances, float(distances[0]), "distance of distributions", medians)
