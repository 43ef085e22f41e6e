"""hit@1 that cannot be fooled: the truth wins no tie by its position, and a broken vector is refused, not ranked.

A score is the cosine of two float32 vectors, accumulated in float64 and rounded to multiples of 2^-24, the spacing of
float32 just below 1. Scores are then compared exactly. So a pair has the same score wherever it stands in a matrix
product, and a difference too small for a float32 cosine, no larger than what the make-up of a batch does, is a tie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.embedder import Vectors
from components.errors import EmbedlineError

STEPS = 2.0**24
QUERIES_AT_ONCE = CANDIDATES_AT_ONCE = 1024
Positions = NDArray[np.integer]


@dataclass(frozen=True)
class Hits:
    """`expected (n,)`: hit@1 of each query, 0 to 1; `tied (n,)`: whether several candidates share its highest score."""

    expected: NDArray[np.float64]
    tied: NDArray[np.bool_]


def hit_at_1(
    vectors: Vectors, queries: Positions, candidates: Positions, relevant: Positions, name: Callable[[int], str] = str
) -> Hits:
    """Returns the hits of `n` queries that share `m` candidates, in memory that does not grow with `m`.

    `queries (n,)` and `candidates (m,)` are rows of `vectors (items, dimension)`, `relevant (r, 2)` are pairs of a
    query 0 to n-1 and a candidate 0 to m-1. A hit is the expected value over all orders of the tied candidates: the
    share of relevant ones among those with the highest score. The order of the candidates does not matter.

    Raises `EmbedlineError` if a vector is zero or not finite; `name` says which item a row of `vectors` is.
    """
    parts = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        stop = start + QUERIES_AT_ONCE
        inside = relevant[(relevant[:, 0] >= start) & (relevant[:, 0] < stop)]
        parts.append(_hits(vectors, queries[start:stop], candidates, inside - np.array([start, 0]), name))
    return Hits(np.concatenate([part.expected for part in parts]), np.concatenate([part.tied for part in parts]))


def unit(vectors: Vectors, rows: Positions, name: Callable[[int], str] = str) -> NDArray[np.float64]:
    """Returns the given rows of `vectors` with norm 1, `(len(rows), dimension)`. Raises as `hit_at_1` does."""
    chosen = np.asarray(vectors[rows], np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", chosen, chosen))
    sound = np.isfinite(norms) & (norms > 0)
    if not sound.all():
        row = int(np.argmin(sound))
        defect = "is zero" if norms[row] == 0 else "is not finite"
        raise EmbedlineError(
            f"{name(int(rows[row]))}: the vector {defect}",
            "No score is given. Look at this item and at the model's weights.",
        )
    chosen /= norms[:, None]
    return chosen


def _hits(
    vectors: Vectors, queries: Positions, candidates: Positions, relevant: Positions, name: Callable[[int], str]
) -> Hits:
    """Keeps, while blocks of candidates pass, each query's highest score and how many candidates reach it."""
    questions = unit(vectors, queries, name)
    highest = np.full(len(queries), -np.inf)
    reached, relevant_reached = np.zeros((2, len(queries)))
    for start in range(0, len(candidates), CANDIDATES_AT_ONCE):
        block = unit(vectors, candidates[start : start + CANDIDATES_AT_ONCE], name)
        scores = np.rint(questions @ block.T * STEPS)
        top = scores.max(axis=1)
        risen = top > highest
        highest[risen] = top[risen]
        reached[risen] = relevant_reached[risen] = 0
        at_top = scores == highest[:, None]
        reached += at_top.sum(axis=1)
        rows, columns = relevant[(relevant[:, 1] >= start) & (relevant[:, 1] < start + len(block))].T
        np.add.at(relevant_reached, rows, at_top[rows, columns - start])
    return Hits(relevant_reached / reached, reached > 1)
