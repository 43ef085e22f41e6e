"""What users took of what was found: recall and reciprocal rank of a window, by version and slice, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.scores.intervals import mean_interval
from components.traffic import read_requests

CONFIDENCE = 0.95
ASKED_BEFORE = 86_400.0
"""How many seconds before its window a request may lie whose hit was taken in it."""
MEASURES: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "recall@1": lambda ranks: (ranks == 1).astype(float),
    "recall@10": lambda ranks: ((ranks >= 1) & (ranks <= 10)).astype(float),
    "mean reciprocal rank": lambda ranks: np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0),
}


@dataclass(frozen=True)
class Outcome:
    """The mean of a measure over the answers of a group, with its interval. `group` is `all`, a version or a slice."""

    group: str
    measure: str
    answers: int
    mean: float
    low: float
    high: float


def outcomes(
    traffic: Path, taken: Mapping[str, int], since: float, until: float, slices: Sequence[str]
) -> list[Outcome]:
    """Returns the outcomes of the feedback that came from `since` to `until`: the ranks `taken` by the requests' ids. A
    hit that was taken is the relevant one, so recall@k is the share of answers where it was among the first k. Raises
    as `read_window` does."""
    if not taken:
        return []
    names = {"model_version": "version", **{name: name for name in slices}}
    groups: dict[str, list[int]] = defaultdict(list, {"all": list(taken.values())})
    for request in read_requests(traffic, list(names), since - ASKED_BEFORE, until, taken):
        for column, name in names.items():
            if value := request.get(column):
                groups[f"{name} {value}"].append(taken[request["request_id"]])
    return [outcome for group, ranks in groups.items() for outcome in _measured(group, np.array(ranks))]


def _measured(group: str, ranks: NDArray[np.int64]) -> Iterator[Outcome]:
    for measure, values_of in MEASURES.items():
        values = values_of(ranks)
        low, high = mean_interval([values], CONFIDENCE)
        yield Outcome(group, measure, len(ranks), float(values.mean()), float(low), float(high))
