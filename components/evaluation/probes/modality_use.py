"""Modality use: what a set of composed items is worth without its images, and without its texts.

An image is taken away, not made grey: a grey image is still an image, whose vector would pull all queries one way
and hide that the text alone suffices. The instruction stays. Items that have only a text or only an image stay too.

A set is flagged as solvable without its images where the score without them is above chance and not shown to be below
the full one, each by the 95 % interval over queries. Such a set says nothing about vision (Y. Goyal et al.
2017, Making the V in VQA Matter).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.corpus import Item
from components.evaluation.aggregate import CONFIDENCE, overall_interval
from components.evaluation.derived import REMEDY, as_it_is, derived_suite, derived_task, questions_of
from components.evaluation.metrics import Ranks, values
from components.evaluation.scoring import Positions
from components.evaluation.sets import Collection, EvaluationSet, Suite
from components.evaluation.vectors import Side
from components.scores import Scores
from components.scores.intervals import difference_interval

NAME = "modality-use"


def build(base: Suite, images: Path) -> Suite:
    """Returns `SET.full`, `SET.without-image` and `SET.without-text` of every set that has composed items.

    Of a set, the rows are taken whose query has both text and image; if it has none, those with such a candidate.
    Raises `UsageError` if no set has any.
    """
    collection, sets = Collection(REMEDY, merged=False), []
    for questions in base.sets:
        rows = _composed_rows(base, questions)
        for variant, blanked in VARIANTS.items() if len(rows) else ():
            task = derived_task(questions.task, variant, len(rows))
            asked = questions_of(base, questions, rows)
            sets.append(collection.from_queries(f"{questions.name}.{variant}", task, asked, blanked, blanked))
    return derived_suite(NAME, base, collection, sets, "no set with items of both text and image")


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    """Returns the share of sets that are solvable without their images, the mean drops without either, and by set the
    score as it is and without either, the chance level, and 1 where it is solvable without its images, else 0."""
    numbers: dict[str, float] = {}
    solvable, drops = [], []
    for questions in suite.sets:
        name = questions.name.removesuffix(".full")
        if name == questions.name:
            continue
        found = {variant: np.array(scores.tasks[f"{name}.{variant}"].values) for variant in VARIANTS}
        full, without_image, without_text = found.values()
        lost = difference_interval([full - without_image], CONFIDENCE)
        level = chance(questions)
        beats_chance = overall_interval({name: without_image})[0] > level
        solvable.append(float(beats_chance and lost[0] <= 0))
        drops.append((full.mean() - without_image.mean(), full.mean() - without_text.mean()))
        numbers |= {f"{name}: {variant}": float(value.mean()) for variant, value in found.items()}
        numbers |= {f"{name}: chance": level, f"{name}: solvable without image": solvable[-1]}
    image, text = np.mean(drops, axis=0)
    return {
        "share of sets solvable without image": float(np.mean(solvable)),
        "drop without image": float(image),
        "drop without text": float(text),
    } | numbers


def chance(questions: EvaluationSet) -> float:
    """Returns the expected score of a set when all candidates tie, which is that of a random ranking."""
    total = 0.0
    for pool in questions.pools:
        query, tied = pool.relevant[:, 0].astype(np.int64), np.full(len(pool.relevant), len(pool.candidates))
        ranks = Ranks(len(pool.rows), query, pool.grades, np.zeros_like(query), tied)
        total += float(values(ranks, questions.task.metric).sum())
    return total / len(questions.queries)


def is_composed(item: Item) -> bool:
    """Returns whether the item has both a text and an image, or frames."""
    return bool(item.text and (item.image or item.video))


def without_image(item: Item) -> Item:
    return replace(item, image=None, video=()) if is_composed(item) else item


def without_text(item: Item) -> Item:
    return replace(item, text=None) if is_composed(item) else item


VARIANTS: dict[str, Callable[[Item], Item]] = {
    "full": as_it_is,
    "without-image": without_image,
    "without-text": without_text,
}


def _composed_rows(base: Suite, questions: EvaluationSet) -> Positions:
    composed = np.array([is_composed(item) for item in base.items])
    if (rows := np.flatnonzero(composed[questions.queries])).size:
        return rows
    pools = [pool.rows for pool in questions.pools if composed[pool.candidates].any()]
    return np.sort(np.concatenate(pools)) if pools else rows
