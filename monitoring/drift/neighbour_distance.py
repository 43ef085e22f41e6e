"""How far requests lie from what the model was trained on: the mean distance to the nearest training vectors.

Source: Y. Sun et al. 2022, Out-of-Distribution Detection with Deep Nearest Neighbors (of normalised vectors).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from components.sections import Positive, Section
from monitoring.drift.mmd import squared_distances
from monitoring.permutations import Inapplicable, Measured, Samples, kolmogorov_smirnov

ROWS_AT_ONCE = 512


class Settings(Section):
    name: Literal["neighbour_distance"] = "neighbour_distance"
    neighbours: Positive = 5


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the largest distance of the two distribution functions, 0 to 1."""
    training = samples.training
    if training is None or len(training) < settings.neighbours:
        raise Inapplicable("no training vectors are given")
    samples = samples.embedded()
    if samples.vectors.shape[1] != training.shape[1]:
        raise Inapplicable("the training vectors are of another dimension")
    parts = [samples.vectors[start : start + ROWS_AT_ONCE] for start in range(0, len(samples.vectors), ROWS_AT_ONCE)]
    nearest = [np.partition(squared_distances(part, training), settings.neighbours - 1, axis=1) for part in parts]
    distances = np.sqrt(np.concatenate(nearest)[:, : settings.neighbours]).mean(axis=1, dtype=np.float64)
    values = kolmogorov_smirnov(distances, samples)
    window = samples.ways[0]
    detail = {"window": float(np.median(distances[window])), "reference": float(np.median(distances[~window]))}
    return Measured(values, float(values[0]), "distance of distributions", detail)
