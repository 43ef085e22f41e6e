"""How far the mean vector moved.

Source: S. Rabanser, S. Günnemann and Z. Lipton 2019, Failing Loudly (two-sample tests of learnt representations). The
statistic is the distance of the two means; permutations give its p-value.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from components.sections import Section
from monitoring.permutations import Measured, Samples


class Settings(Section):
    name: Literal["mean_shift"] = "mean_shift"


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the distance in standard deviations: the root of the summed variances of all dimensions."""
    samples = samples.embedded()
    of_window, of_reference = samples.vector_means
    distances = np.linalg.norm(of_window - of_reference, axis=1)
    deviation = float(np.sqrt(samples.vectors.var(axis=0, dtype=np.float64).sum())) or 1.0
    return Measured(distances, float(distances[0]) / deviation, "standard deviations", {})
