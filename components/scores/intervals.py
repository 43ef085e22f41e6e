"""Intervals of means over queries that also hold for few queries, and where none or all of them are hits.

The bootstrap draws only what it has seen: of 30 queries without a loss it makes an interval without losses. These two
allow for what the next queries may bring, draw nothing, and take one set or several, whose means count alike whatever
their sizes. `benchmarks/gate.py` measures how often they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaincinv, ndtri

Values = NDArray[np.float64]


def mean_interval(sets: Sequence[Values], confidence: float) -> tuple[Values, Values]:
    """Returns the limits `(...)`, 0 to 1, of the mean of the sets' means; each set is `(..., queries)`, 0 to 1.

    The interval of A. Agresti and B. Coull (1998, Approximate Is Better than "Exact" for Interval Estimation of
    Binomial Proportions): z² / 2 hits and as many misses are added, then the limits are those of the normal
    distribution. Taken from the variance it holds for values between hit and miss too. Of several sets, each gets the
    more of what is added the fewer queries it has, for its mean is the less certain.
    """
    z = float(ndtri((1 + confidence) / 2))
    rarity = 1 / np.array([each.shape[-1] for each in sets])
    added = z**2 * rarity / rarity.sum()
    queries = 1 / rarity + added
    means = (np.stack([each.sum(-1) for each in sets], -1) + added / 2) / queries
    squares = (np.stack([np.square(each).sum(-1) for each in sets], -1) + added / 2) / queries
    middle = means.mean(-1)
    half = z * np.sqrt(((squares - means**2) / queries).sum(-1)) / len(sets)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def difference_interval(sets: Sequence[Values], confidence: float) -> tuple[Values, Values]:
    """Returns the limits `(...)`, -1 to 1, of the mean of the sets' mean differences; each set is `(..., queries)`.

    A query that differs is a rare event, won or lost, whose weight is its difference's share in the mean. The sums of
    wins and of losses each have the limits of M. Fay and E. Feuer (1997, Confidence Intervals for Directly Standardized
    Rates), which hold for few events and for none. MOVER makes limits of their difference from these (G. Zou and
    A. Donner 2008, Construction of Confidence Limits about Effect Measures). Each limit errs with a probability of at
    most (1 - confidence) / 2, and with far less where hardly any query differs.
    """
    error = (1 - confidence) / 2
    won, lost = _events(sets), _events([-each for each in sets])
    difference = won.total - lost.total
    lower = difference - np.hypot(won.total - won.lower(error), lost.upper(error) - lost.total)
    upper = difference + np.hypot(won.upper(error) - won.total, lost.total - lost.lower(error))
    return np.clip(lower, -1, 1), np.clip(upper, -1, 1)


def median_interval(values: Values, confidence: float) -> tuple[float, float]:
    """Returns the limits of the median of what `values`, `(n,)`, were drawn from, whatever its distribution.

    They are two of the values: as many lie below the one as above the other, so few that a fair coin shows so few heads
    in n throws with a probability of at most (1 - confidence) / 2 (W. Thompson 1936, On Confidence Ranges for the
    Median and Other Expectation Distributions for Populations of Unknown Distribution Form). Where n is too small for
    any limit, they are infinite.
    """
    ordered = np.sort(values)
    fewest = np.flatnonzero(bdtr(np.arange(len(ordered)), len(ordered), 0.5) > (1 - confidence) / 2)[:1]
    if not len(fewest) or not (outside := int(fewest[0])):
        return -np.inf, np.inf
    return float(ordered[outside - 1]), float(ordered[len(ordered) - outside])


@dataclass(frozen=True)
class _Events:
    """A sum of weighted Poisson counts, its variance, and the largest weight that an event can have."""

    total: Values
    variance: Values
    largest: float

    def lower(self, error: float) -> Values:
        return _gamma_quantile(self.total, self.variance, error)

    def upper(self, error: float) -> Values:
        """One event more than were seen, of the largest weight: the next one may be that."""
        return _gamma_quantile(self.total + self.largest, self.variance + self.largest**2, 1 - error)


def _events(sets: Sequence[Values]) -> _Events:
    """Returns the events of the differences above 0."""
    weights = [1 / (len(sets) * each.shape[-1]) for each in sets]
    positive = [np.maximum(each, 0) for each in sets]
    return _Events(
        _weighted(weights, (each.sum(-1) for each in positive)),
        _weighted([weight**2 for weight in weights], (np.square(each).sum(-1) for each in positive)),
        max(weights),
    )


def _weighted(weights: Iterable[float], sums: Iterable[Values]) -> Values:
    total: Values = np.sum([weight * each for weight, each in zip(weights, sums, strict=True)], axis=0)
    return total


def _gamma_quantile(mean: Values, variance: Values, level: float) -> Values:
    """Returns the quantile of the gamma distribution with this mean and variance; 0 where the mean is 0."""
    scale = np.divide(variance, mean, out=np.zeros_like(mean), where=mean > 0)
    shape = np.divide(mean, scale, out=np.ones_like(mean), where=scale > 0)
    quantile: Values = scale * gammaincinv(shape, level)
    return quantile
