"""Where the relevant candidates stand: scores compared exactly, in memory that does not grow with the candidates.

A score is the dot product of two L2-normalised float32 vectors, accumulated in float64 and rounded to multiples of
2^-24, the spacing of float32 just below 1. So a pair has the same score wherever it stands in a matrix product, and a
difference too small for a float32 cosine, no larger than what the make-up of a batch does, is a tie.

Blocks of candidates are compared in float32 first. What lies so near to a relevant candidate's score that float32
cannot tell is decided by the exact score; the rest cannot be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.backends.multi_vector import maxsim
from components.embedder import Vectors
from components.errors import EmbedlineError
from components.evaluation.metrics import Ranks

STEPS = 2.0**24
MAXSIM_STEPS = 2.0**20
CANDIDATES_AT_ONCE = 2048
RELEVANT_AT_ONCE = 512
PAIRS_AT_ONCE = 4096
Positions = NDArray[np.integer]


class Similarity(Protocol):
    """Scores of queries against candidates, both given by their rows."""

    @property
    def tolerance(self) -> float:
        """By how much a score of `block` may differ from the exact one."""
        ...

    def block(self, queries: Positions, candidates: Positions) -> NDArray[np.floating]:
        """Returns the scores `(queries, candidates)`, nearly."""
        ...

    def exact(self, queries: Positions, candidates: Positions) -> NDArray[np.float64]:
        """Returns the scores of pairs, `(pairs,)`, the same for the same pair in whatever company."""
        ...


@dataclass(frozen=True)
class Cosine:
    """Dot products of L2-normalised vectors, `queries (n, dimension)` and `candidates (m, dimension)` float32."""

    queries: Vectors
    candidates: Vectors

    @property
    def tolerance(self) -> float:
        return float(self.queries.shape[1]) / STEPS

    def block(self, queries: Positions, candidates: Positions) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = taken(self.queries, queries) @ taken(self.candidates, candidates).T
        return scores

    def exact(self, queries: Positions, candidates: Positions) -> NDArray[np.float64]:
        products = (
            np.einsum("ij,ij->i", self.queries[queries[part]], self.candidates[candidates[part]], dtype=np.float64)
            for part in _parts(len(queries), PAIRS_AT_ONCE)
        )
        return np.asarray(np.rint(np.concatenate([*products]) * STEPS) / STEPS)


@dataclass(frozen=True)
class MaxSim:
    """Of multi-vector models: the sum over a query's vectors of the highest dot product with one of the candidate.

    The vectors of query `i` are the rows `query_bounds[i]` to `query_bounds[i + 1]` of `queries (rows, dimension)`; so
    those of candidates.
    """

    queries: Vectors
    query_bounds: NDArray[np.int64]
    candidates: Vectors
    candidate_bounds: NDArray[np.int64]
    tolerance: float = 0.0

    def block(self, queries: Positions, candidates: Positions) -> NDArray[np.float64]:
        scores = maxsim(
            _split(self.queries, self.query_bounds, queries), _split(self.candidates, self.candidate_bounds, candidates)
        )
        return np.asarray(np.rint(scores * MAXSIM_STEPS) / MAXSIM_STEPS)

    def exact(self, queries: Positions, candidates: Positions) -> NDArray[np.float64]:
        pairs = zip(queries, candidates, strict=True)
        return np.array([self.block(np.array([query]), np.array([candidate]))[0, 0] for query, candidate in pairs])


def ranks(
    similarity: Similarity,
    queries: Positions,
    candidates: Positions,
    relevant: Positions,
    grades: NDArray[np.float64] | None = None,
) -> Ranks:
    """Returns where the relevant candidates of `n` queries that share `m` candidates stand.

    `queries (n,)` and `candidates (m,)` are rows of the similarity's two sides, `relevant (r, 2)` are pairs of a query
    0 to n-1 and a candidate 0 to m-1, `grades (r,)` their relevance, 1 where there is none. The order of the candidates
    does not matter.
    """
    order = np.argsort(relevant[:, 0], kind="stable")
    asked, answers = relevant[order].T
    graded = np.ones(len(order)) if grades is None else np.asarray(grades, np.float64)[order]
    sorted_candidates = np.sort(candidates)  # rows that follow one another are read without a copy
    counts = [
        _counts(similarity, queries[asked[part]], candidates[answers[part]], sorted_candidates)
        for part in _parts(len(order), RELEVANT_AT_ONCE)
    ]
    above, tied = np.concatenate(counts, axis=1)
    return Ranks(len(queries), asked.astype(np.int64), graded, above, tied)


def joined(ranked: Sequence[tuple[Positions, Ranks]], queries: int) -> Ranks:
    """Returns the ranks of all pools of a set as one; each comes with the rows of its queries in the set."""
    parts = [(rows[pool.query], pool.grade, pool.above, pool.tied) for rows, pool in ranked]
    query, grade, above, tied = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Ranks(queries, query.astype(np.int64), grade, above, tied)


def normalised(vectors: Vectors, name: Callable[[int], str] = str) -> Vectors:
    """Returns the rows with norm 1, `(n, dimension)` float32, computed in float64.

    Raises `EmbedlineError` if a row is zero or not finite; `name` says what the row is the vector of.
    """
    exact = np.asarray(vectors, np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    sound = np.isfinite(norms) & (norms > 0)
    if not sound.all():
        row = int(np.argmin(sound))
        defect = "is zero" if norms[row] == 0 else "is not finite"
        raise EmbedlineError(
            f"{name(row)}: the vector {defect}", "No score is given. Look at this item and at the model's weights."
        )
    return np.asarray(exact / norms[:, None], np.float32)


def taken(vectors: Vectors, rows: Positions) -> Vectors:
    """Returns `vectors[rows]`, without a copy where the rows follow one another."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows) and (np.diff(rows) == 1).all():
        return vectors[first : last + 1]
    return np.asarray(vectors[rows])


def _split(vectors: Vectors, bounds: NDArray[np.int64], rows: Positions) -> list[Vectors]:
    return [vectors[bounds[row] : bounds[row + 1]] for row in rows]


def _counts(similarity: Similarity, asked: Positions, answers: Positions, candidates: Positions) -> NDArray[np.int64]:
    """Returns, for pairs of a query and a relevant candidate, how many candidates score more and how many the same."""
    queries, row = np.unique(asked, return_inverse=True)
    truth = similarity.exact(asked, answers)
    lower, upper = (truth + side * similarity.tolerance for side in (-1, 1))
    above, tied = np.zeros((2, len(asked)), np.int64)
    for part in _parts(len(candidates), CANDIDATES_AT_ONCE):
        block = candidates[part]
        scores = similarity.block(queries, block)[row]
        surely = scores > upper[:, None]
        above += surely.sum(axis=1)
        pair, place = np.nonzero((scores >= lower[:, None]) & ~surely)
        exact = similarity.exact(asked[pair], block[place])
        above += np.bincount(pair[exact > truth[pair]], minlength=len(asked))
        tied += np.bincount(pair[exact == truth[pair]], minlength=len(asked))
    return np.stack([above, tied])


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]
