"""Which candidates tie, by example, and what they have in common that may be why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from components.corpus import Item
from components.corpus.groups import same_caption, words
from components.embedder.runtime import load_image
from components.evaluation.metrics import Ranks
from components.evaluation.sets import EvaluationSet, Pool, Suite
from components.evaluation.vectors import Side, similarity
from components.scores import Tie

EXAMPLES = 3
SAME: dict[str, Callable[[Item], object]] = {
    "they are equal": lambda item: item.text,
    "they differ in case and white space alone": lambda item: same_caption(item.text or ""),
    "they have the same words": lambda item: words(item.text or ""),
}
"""What two texts have in common that a model may not look behind, the nearest first."""
UNEXPLAINED = "nothing in them says why: look at the model"


def examples(suite: Suite, questions: EvaluationSet, found: Ranks, queries: Side, candidates: Side) -> list[Tie]:
    """Returns the first ties of a set on whose order the value of a query hangs, each pair of candidates once."""
    rows = np.flatnonzero(found.undecided)[:EXAMPLES]
    pairs = dict.fromkeys(_tied(questions, int(row), queries, candidates) for row in rows)
    return [
        Tie(_name(suite, one), _name(suite, other), _why(suite.items[one], suite.items[other])) for one, other in pairs
    ]


def _tied(questions: EvaluationSet, row: int, queries: Side, candidates: Side) -> tuple[int, int]:
    """Returns a relevant candidate of an undecided query and one of another grade with the same score."""
    pool = next(pool for pool in questions.pools if row in pool.rows)
    grades = _grades(pool, row)
    asked = queries.rows(np.repeat(questions.queries[row], len(pool.candidates)))
    scores = similarity(queries, candidates).exact(asked, candidates.rows(pool.candidates))
    for place in np.flatnonzero(grades):
        others = np.flatnonzero((scores == scores[place]) & (grades != grades[place]))
        if len(others):
            return int(pool.candidates[place]), int(pool.candidates[others[0]])
    raise ValueError(f"{questions.name}: no candidates of row {row} tie")


def _grades(pool: Pool, row: int) -> NDArray[np.float64]:
    """Returns `(m,)`: the relevance of each candidate to the query, 0 where there is none."""
    own = np.flatnonzero(pool.rows[pool.relevant[:, 0]] == row)
    grades = np.zeros(len(pool.candidates))
    grades[pool.relevant[own, 1]] = pool.grades[own]
    return grades


def _name(suite: Suite, position: int) -> str:
    text, image, frames, _ = suite.identity(position)
    parts = [repr(text)] if text else []
    return " with ".join([*parts, *(str(part) for part in (image, *frames) if part)])  # type: ignore[misc]


def _why(one: Item, other: Item) -> str:
    if _pixels(one) != _pixels(other):
        return UNEXPLAINED
    return next((reason for reason, of in SAME.items() if of(one) == of(other)), UNEXPLAINED)


def _pixels(item: Item) -> list[tuple[tuple[int, int], bytes]]:
    images = [load_image(image) for image in (item.image, *item.video) if image is not None]
    return [(image.size, image.tobytes()) for image in images]
