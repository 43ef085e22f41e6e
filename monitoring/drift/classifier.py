"""How well a linear classifier tells the window's requests from the reference's.

Source: D. Lopez-Paz and M. Oquab 2017, Revisiting Classifier Two-Sample Tests. Half of the rows train it, the area
under the ROC curve of the other half is the statistic. The classifier is Fisher's linear discriminant with a ridge; its
matrix is that of all rows, so that one factorisation trains it for every permutation. The interval is that of
E. DeLong, D. DeLong and D. Clarke-Pearson 1988.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from components.sections import Rate, Section
from monitoring.permutations import Inapplicable, Measured, Numbers, Samples

FEWEST = 20
NORMAL = 1.959964
"""Of the 95 % interval."""


class Settings(Section):
    """`ridge` is added to the matrix, in units of the mean variance of a dimension."""

    name: Literal["classifier"] = "classifier"
    ridge: Rate = 0.1


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the area under the curve, 0.5 where nothing differs; its 95 % interval is in the detail."""
    samples = samples.embedded()
    half = samples.chance < np.median(samples.chance)
    train, held_out = samples.where(half), samples.where(~half)
    if len(held_out.vectors) < FEWEST:
        raise Inapplicable(f"a classifier needs {2 * FEWEST} requests")
    scores = _scores(settings, train, held_out)
    values = areas(scores, held_out.ways.T)
    low, high = delong_interval(scores[held_out.ways[0], 0], scores[~held_out.ways[0], 0])
    return Measured(values, float(values[0]), "area under the ROC curve", {"low": low, "high": high})


def areas(scores: Numbers, of_window: NDArray[np.bool_]) -> Numbers:
    """Returns the area under the ROC curve of each column of `scores (n, k)`; its positives are `of_window (n, k)`."""
    ranks = rankdata(scores, axis=0)
    positive = of_window.sum(axis=0)
    total = (ranks * of_window).sum(axis=0)
    found: Numbers = (total - positive * (positive + 1) / 2) / (positive * (len(scores) - positive))
    return found


def delong_interval(positives: Numbers, negatives: Numbers) -> tuple[float, float]:
    """Returns the 95 % interval of the area under the ROC curve of two sets of scores."""
    above = _share_below(negatives, positives)
    below = 1 - _share_below(positives, negatives)
    error = np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    area = float(above.mean())
    return max(0.0, area - NORMAL * float(error)), min(1.0, area + NORMAL * float(error))


def _scores(settings: Settings, train: Samples, held_out: Samples) -> Numbers:
    """Returns what the classifiers, one a way, say of the held-out rows, `(n, 1 + permutations)`."""
    mean = train.vectors.mean(axis=0)
    centred = train.vectors - mean
    matrix = (centred.T @ centred).astype(np.float64) / len(centred)
    matrix += settings.ridge * (np.trace(matrix) / len(matrix) or 1.0) * np.eye(len(matrix))
    of_window, of_reference = train.means(centred)
    weights = np.linalg.solve(matrix, (of_window - of_reference).T)
    return np.asarray((held_out.vectors - mean) @ weights.astype(np.float32), np.float64)


def _share_below(of: Numbers, at: Numbers) -> Numbers:
    """Returns the share of `of` below each of `at`, ties by half."""
    ordered = np.sort(of)
    found: Numbers = (np.searchsorted(ordered, at, "left") + np.searchsorted(ordered, at, "right")) / (2 * len(of))
    return found
