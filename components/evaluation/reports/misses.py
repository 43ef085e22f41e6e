"""A query that a model answers badly, with what it should have found and what it found instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from components.corpus import Item
from components.evaluation.report import ranked
from components.evaluation.sets import Pool, Suite
from components.evaluation.vectors import Side, similarity


@dataclass(frozen=True)
class Miss:
    """A query of the set `task`; `rank` is where its first relevant candidate `expected` stands, from 1.

    The rank is the expected one over all orders of tied candidates. `found` is the candidate that came first.
    """

    task: str
    query: Item
    expected: Item
    found: Item
    rank: float


def worst(suite: Suite, sides: Mapping[str, tuple[Side, Side]], count: int) -> list[Miss]:
    """Returns the queries whose first relevant candidate ranks lowest, as a share of their candidates; of each set at
    most twice its part of `count`, so that a hard set does not hide the others."""
    found: list[tuple[float, str, int, Pool, float]] = []
    limit = 2 * max(1, count // len(suite.sets))
    for questions in suite.sets:
        first = ranked(questions, *sides[questions.name]).first
        pools = {int(row): pool for pool in questions.pools for row in pool.rows}
        shares = first / np.array([len(pools[row].candidates) for row in range(len(first))])
        rows = [int(row) for row in np.argsort(-shares, kind="stable")[:limit] if first[row] > 1]
        found += [(float(shares[row]), questions.name, row, pools[row], float(first[row])) for row in rows]
    found.sort(key=lambda miss: -miss[0])
    return [_miss(suite, sides[name], name, row, pool, rank) for _, name, row, pool, rank in found[:count]]


def _miss(suite: Suite, sides: tuple[Side, Side], name: str, row: int, pool: Pool, rank: float) -> Miss:
    questions = next(questions for questions in suite.sets if questions.name == name)
    queries, candidates = sides
    asked = questions.queries[[row]]
    scores = similarity(queries, candidates).block(queries.rows(asked), candidates.rows(pool.candidates))[0]
    relevant = pool.relevant[pool.rows[pool.relevant[:, 0]] == row, 1]
    expected, best = relevant[scores[relevant].argmax()], scores.argmax()
    query, truth, found = (
        suite.items[position] for position in (asked[0], pool.candidates[expected], pool.candidates[best])
    )
    return Miss(name, query, truth, found, rank)
