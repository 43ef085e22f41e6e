"""Retrieval metrics of rankings with ties: each value is the expected one over all orders of tied candidates.

A ranking is known by its tie groups: the candidates that share a score, of which some are relevant. All that a metric
needs of a group is how many candidates stand above it, how many it holds, and its relevant ones, so no list of
candidates is ever sorted. Without ties every value is that of trec_eval, but for `map` (divided by min(relevant, k),
where trec_eval divides by all relevant ones) and `mrr` (cut at k), which follow MMEB.

Sources: McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
Scores (ECIR 2008); Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques (2002) for NDCG.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from components.errors import UsageError

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Ranks:
    """Where the relevant candidates of `queries` queries stand, one row each, `(p,)`.

    `query` is 0 to queries-1, `grade` the relevance, above 0; `above` counts the candidates with a higher score, `tied`
    those with the same, itself included. Every query has at least one row.
    """

    queries: int
    query: Counts
    grade: Numbers
    above: Counts
    tied: Counts

    @cached_property
    def groups(self) -> Groups:
        """The tie groups that hold relevant candidates, by query, best first."""
        order = np.lexsort((self.above, self.query))
        query, above = self.query[order], self.above[order]
        new = np.ones(len(order), bool)
        new[1:] = (query[1:] != query[:-1]) | (above[1:] != above[:-1])
        group = np.cumsum(new) - 1
        relevant = np.bincount(group)
        before = np.cumsum(relevant) - relevant
        first = np.searchsorted(query, query[new])
        return Groups(query[new], above[new], self.tied[order][new], relevant, before - first, group, self.grade[order])

    @property
    def relevant(self) -> Counts:
        """The number of relevant candidates of each query, `(queries,)`."""
        return np.asarray(np.bincount(self.query, minlength=self.queries))

    @property
    def undecided(self) -> NDArray[np.bool_]:
        """Whether a query's metrics hang on the order of ties: a relevant candidate ties with one of another grade."""
        groups = self.groups
        highest, lowest = np.zeros(len(groups.query)), np.full(len(groups.query), np.inf)
        np.maximum.at(highest, groups.group, groups.grade)
        np.minimum.at(lowest, groups.group, groups.grade)
        mixed = (groups.tied > groups.relevant) | (highest > lowest)
        return np.bincount(groups.query, mixed, self.queries) > 0

    @property
    def first(self) -> Numbers:
        """The expected rank, from 1, of the first relevant candidate of each query, `(queries,)`."""
        groups = self.groups
        best = groups.before == 0
        return np.asarray(groups.above[best] + (groups.tied[best] + 1) / (groups.relevant[best] + 1))


@dataclass(frozen=True)
class Groups:
    """Tie groups, `(g,)`: `relevant` of `tied` candidates are relevant, and `before` relevant ones rank higher.

    `group (p,)` and `grade (p,)` say which group each relevant candidate is in, and its relevance.
    """

    query: Counts
    above: Counts
    tied: Counts
    relevant: Counts
    before: Counts
    group: Counts
    grade: Numbers

    def inside(self, k: int) -> Counts:
        """Returns how many of a group's places are among the first `k`."""
        return np.asarray(np.minimum(self.above + self.tied, k) - np.minimum(self.above, k))


def values(ranks: Ranks, metric: str) -> Numbers:
    """Returns the metric of each query, `(queries,)` within 0 to 1. Raises `UsageError` for an unknown metric.

    The metrics are `hit@k`, `recall@k`, `precision@k`, `f1@k`, `mrr@k`, `map@k`, `ndcg_linear@k` and
    `ndcg_exponential@k`, for any k above 0.
    """
    name, k = parse(metric)
    return METRICS[name](ranks, k)


def parse(metric: str) -> tuple[str, int]:
    """Returns the name and the k of a metric such as `hit@1`. Raises `UsageError` for an unknown one."""
    found = re.fullmatch(r"(\w+)@([1-9]\d*)", metric)
    if not found or found[1] not in METRICS:
        raise UsageError(f"{metric}: no such metric", f"Name one of {', '.join(METRICS)} with its k, such as hit@1.")
    return found[1], int(found[2])


def hit(ranks: Ranks, k: int) -> Numbers:
    groups = ranks.groups
    missed = _none_among(groups, groups.inside(k))
    none = np.ones(ranks.queries)
    np.multiply.at(none, groups.query, missed)
    return 1 - none


def recall(ranks: Ranks, k: int) -> Numbers:
    return _found(ranks, k) / ranks.relevant


def precision(ranks: Ranks, k: int) -> Numbers:
    return _found(ranks, k) / k


def f1(ranks: Ranks, k: int) -> Numbers:
    return 2 * _found(ranks, k) / (k + ranks.relevant)


def mrr(ranks: Ranks, k: int) -> Numbers:
    groups = ranks.groups
    reciprocal, none = np.zeros((2, len(groups.query)))
    none += groups.before == 0
    for place in range(k):
        left = groups.tied - place
        here = (left > 0) & (groups.above + place < k) & (none > 0)
        if not here.any():
            break
        share = np.minimum(groups.relevant / np.maximum(left, 1), 1) * here
        reciprocal += none * share / (groups.above + place + 1)
        none *= 1 - share
    return _summed(groups.query, reciprocal, ranks.queries)


def average_precision(ranks: Ranks, k: int) -> Numbers:
    groups = ranks.groups
    total = np.zeros(len(groups.query))
    others = (groups.relevant - 1) / np.maximum(groups.tied - 1, 1)
    for place in range(int(groups.inside(k).max(initial=0))):
        here = place < groups.inside(k)
        precision_here = (groups.before + 1 + others * place) / (groups.above + place + 1)
        total += here * groups.relevant / groups.tied * precision_here
    return _summed(groups.query, total, ranks.queries) / np.minimum(ranks.relevant, k)


def ndcg_linear(ranks: Ranks, k: int) -> Numbers:
    return _ndcg(ranks, k, lambda grade: grade)


def ndcg_exponential(ranks: Ranks, k: int) -> Numbers:
    return _ndcg(ranks, k, lambda grade: 2**grade - 1)


METRICS: dict[str, Callable[[Ranks, int], Numbers]] = {
    "hit": hit,
    "recall": recall,
    "precision": precision,
    "f1": f1,
    "mrr": mrr,
    "map": average_precision,
    "ndcg_linear": ndcg_linear,
    "ndcg_exponential": ndcg_exponential,
}
REPORTED = tuple(f"{name}@{k}" for name, k in product(METRICS, (1, 5, 10)))


def _summed(owner: Counts, amounts: Numbers, owners: int) -> Numbers:
    return np.asarray(np.bincount(owner, amounts, owners), np.float64)


def _found(ranks: Ranks, k: int) -> Numbers:
    """Returns how many relevant candidates are to be expected among the first `k` of each query."""
    groups = ranks.groups
    return _summed(groups.query, groups.relevant * groups.inside(k) / groups.tied, ranks.queries)


def _none_among(groups: Groups, drawn: Counts) -> Numbers:
    """Returns the chance that the first `drawn` places of each group hold no relevant candidate (hypergeometric)."""
    none = np.ones(len(drawn))
    for place in range(int(drawn.max(initial=0))):
        irrelevant = np.maximum(groups.tied - groups.relevant - place, 0)
        none *= np.where(place < drawn, irrelevant / np.maximum(groups.tied - place, 1), 1)
    return none


def _ndcg(ranks: Ranks, k: int, gain: Callable[[Numbers], Numbers]) -> Numbers:
    groups = ranks.groups
    discounts = 1 / np.log2(np.arange(k) + 2)
    up_to = np.concatenate([[0], np.cumsum(discounts)])
    places = up_to[np.minimum(groups.above + groups.tied, k)] - up_to[np.minimum(groups.above, k)]
    gains = np.bincount(groups.group, gain(groups.grade))
    reached = np.bincount(groups.query, gains * places / groups.tied, ranks.queries)

    order = np.lexsort((-ranks.grade, ranks.query))
    place = np.arange(len(order)) - np.searchsorted(ranks.query[order], ranks.query[order])
    best = place < k
    ideal_gains = gain(ranks.grade[order])[best] * discounts[place[best]]
    return reached / np.bincount(ranks.query[order][best], ideal_gains, ranks.queries)
