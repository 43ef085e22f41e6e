"""Instruction following: the same image under another instruction has another answer, which nothing else tells.

Each image that several sets ask about is asked again under each one's instruction, over the answers of all of them.
The right answers to the other instructions are thus among the candidates. A model that ignores the instruction finds
the same for all of them: its obedience cannot exceed the share given beside it, where no answer is of two kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.corpus import Item, Query
from components.corpus.item import ImageSource
from components.evaluation.derived import REMEDY, as_it_is, derived_suite, derived_task
from components.evaluation.scoring import Positions
from components.evaluation.sets import Collection, Suite
from components.evaluation.vectors import Side
from components.scores import Scores

NAME = "instruction-following"
ANSWER, KIND = "answer", "kind"


@dataclass(frozen=True)
class Asked:
    """One question of the set `task`: positions of its query and of its candidates, and grades by candidate."""

    task: str
    query: int
    candidates: Positions
    relevant: dict[int, float]


def build(base: Suite, images: Path) -> Suite:
    """Returns two sets of each set that shares query images with others under other instructions.

    Queries have an image and an instruction, no text. In `SET.answer` the answers of the base set are relevant, in
    `SET.kind` all its candidates: any answer of the kind that was asked for. Raises `UsageError` if there is no set.
    """
    questions: dict[str, dict[str, list[Query]]] = {}
    unions: dict[bytes, tuple[tuple[Item, ...], dict[int, int]]] = {}
    for together in _shared(base):
        union = np.unique(np.concatenate([asked.candidates for asked in together]))
        candidates, place = unions.setdefault(
            union.tobytes(),
            (
                tuple(base.items[position] for position in union),
                {position: place for place, position in enumerate(union.tolist())},
            ),
        )
        for asked in together:
            answers = {place[position]: grade for position, grade in asked.relevant.items()}
            kind = {place[position]: 1.0 for position in asked.candidates.tolist()}
            for group, relevant in ((ANSWER, answers), (KIND, kind)):
                of_set = questions.setdefault(asked.task, {}).setdefault(group, [])
                of_set.append(Query(base.items[asked.query], candidates, relevant))
    collection = Collection(REMEDY)
    sets = [
        collection.from_queries(
            f"{name}.{group}", derived_task(task, group, len(found)).model_copy(update={"metric": "hit@1"}), found,
            as_it_is, as_it_is,
        )
        for name, task in base.benchmark.tasks.items()
        for group, found in questions.get(name, {}).items()
    ]  # fmt: skip
    return derived_suite(NAME, base, collection, sets, "no images that are asked about under several instructions")


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    """Returns, over all queries and by set, the share that finds its answer first (`hit@1`) and the share that finds an
    answer of the kind asked for (`obedience`); the share of images of which every instruction is answered rightly;
    and the highest obedience of a model that ignores the instruction, one in as many as an image is asked under."""
    by_image: dict[ImageSource | None, list[float]] = {}
    pooled: dict[str, list[float]] = {ANSWER: [], KIND: []}
    by_set = {}
    for questions in suite.sets:
        name, _, group = questions.name.rpartition(".")
        found = scores.tasks[questions.name]
        pooled[group] += found.values
        by_set[f"{name}: {'hit@1' if group == ANSWER else 'obedience'}"] = found.score
        for position, value in zip(questions.queries, found.values, strict=True) if group == ANSWER else ():
            by_image.setdefault(suite.items[position].image, []).append(value)
    return {
        "hit@1": float(np.mean(pooled[ANSWER])),
        "images with every instruction answered": float(np.mean([np.prod(hits) for hits in by_image.values()])),
        "obedience": float(np.mean(pooled[KIND])),
        "obedience of a model that ignores the instruction, at most": len(by_image) / len(pooled[KIND]),
    } | by_set


def _shared(base: Suite) -> Iterator[list[Asked]]:
    """Yields what is asked of each image that has other answers under other instructions."""
    by_image: dict[ImageSource, list[Asked]] = {}
    for asked in _asked(base):
        image = base.items[asked.query].image
        if image is not None:
            by_image.setdefault(image, []).append(asked)
    for together in by_image.values():
        instructions = {base.items[asked.query].instruction for asked in together}
        answers = {frozenset(asked.relevant) for asked in together}
        if len(instructions) > 1 and len(answers) > 1:
            yield together


def _asked(base: Suite) -> Iterator[Asked]:
    """Yields the questions whose query has an image and an instruction, and no text."""
    for questions in base.sets:
        for pool in questions.pools:
            for place, row in enumerate(pool.rows):
                query = int(questions.queries[row])
                item = base.items[query]
                if item.instruction and not item.text:
                    its = pool.relevant[:, 0] == place
                    answers = pool.candidates[pool.relevant[its, 1]]
                    relevant = dict(zip(answers.tolist(), pool.grades[its].tolist(), strict=True))
                    yield Asked(questions.name, query, pool.candidates, relevant)
