"""Mixed-modality search: one corpus of texts, images and both, in which a query finds its concept in whichever form.

A third of the concepts is there as text, a third as image, a third as both, and each concept once. Three such corpora
are made, in which each concept takes its three forms in turn: scores by form are of the same queries, in corpora that
differ in nothing but which concept has which form. A query is never the very text that stands for its concept.

Sources: B. Li et al. 2025, Closing the Modality Gap for Mixed Modality Search (MixBench); for the gap W. Liang et al.
2022, Mind the Gap: the Euclidean distance between the means of the modalities' L2-normalised vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.corpus import Item, Query
from components.corpus.item import ImageSource
from components.evaluation.derived import (
    REMEDY,
    as_it_is,
    derived_suite,
    derived_task,
    questions_of,
    require_one_vector,
)
from components.evaluation.sets import Collection, EvaluationSet, Suite
from components.evaluation.vectors import Side, similarity
from components.scores import Scores

NAME = "mixed-modality"
FORMS = ("text", "image", "both")
FIRST = 10
QUERIES_AT_ONCE = 64
Names = dict[ImageSource, Item]
"""The name of what an image shows, by the image."""


@dataclass(frozen=True)
class Concepts:
    """What a set of queries by text can find: images with their names, and which queries ask for which image."""

    images: dict[ImageSource, Item]
    names: Names
    asked: list[tuple[Item, ImageSource]]

    def queries(self, form: str) -> Iterator[Query]:
        """Yields the queries for concepts that have this form, in the corpus of the three in which they have it."""
        corpora = [self._corpus(turn) for turn in range(len(FORMS))]
        places = {image: place for place, image in enumerate(self.images)}
        for query, image in self.asked:
            turn = (FORMS.index(form) - places[image]) % len(FORMS)
            yield Query(query, corpora[turn], {places[image]: 1.0})

    def _corpus(self, turn: int) -> tuple[Item, ...]:
        return tuple(
            (name, image, replace(image, text=name.text))[(place + turn) % len(FORMS)]
            for place, (image, name) in enumerate((item, self.names[image]) for image, item in self.images.items())
        )


def build(base: Suite, images: Path) -> Suite:
    """Returns `SET.text`, `SET.image` and `SET.both` of each set that asks for images by texts, where another set of
    `base` names these images in other words; of several, the one that does so for most queries.

    Raises `UsageError` if there is none.
    """
    collection, sets = Collection(REMEDY), []
    namings = [names for questions in base.sets if (names := _names(base, questions))]
    for questions in base.sets:
        concepts = [_concepts(base, questions, names) for names in namings]
        found = max(concepts, key=lambda each: len(each.asked), default=Concepts({}, {}, []))
        for form in FORMS if found.asked and len(found.images) >= len(FORMS) else ():
            task = derived_task(questions.task, form, len(found.asked))
            sets.append(
                collection.from_queries(f"{questions.name}.{form}", task, found.queries(form), as_it_is, as_it_is)
            )
    return derived_suite(NAME, base, collection, sets, "no images that one set asks for and another one names")


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    """Returns the mean score by the form in which the answer is there (`score, both`); the distance of the forms' means
    (`gap, text to image`, 0 to 2); and the bias of the ranking: how many times as often as in the corpus a form occurs
    among the first 10 (`bias, text`; 1 is none, 3 where all are texts).

    Each answer is sought once in every form, so that to find them all is no bias. Raises `UsageError` if the model
    gives an item several vectors.
    """
    require_one_vector(NAME, sides.values())
    form_of = np.array([_form(item) for item in suite.items])
    by_form = {
        form: np.mean([scores.tasks[each.name].score for each in suite.sets if each.task.meta_task == form])
        for form in FORMS
    }
    numbers = {f"score, {form}": float(score) for form, score in by_form.items()}

    vectors = {
        int(position): side.vectors[row] for _, side in sides.values() for row, position in enumerate(side.positions)
    }
    means = {
        form: np.mean([vectors[position] for position in sorted(vectors) if form_of[position] == form], 0, np.float64)
        for form in FORMS
    }
    for one, other in combinations(FORMS, 2):
        numbers[f"gap, {one} to {other}"] = float(np.linalg.norm(means[one] - means[other]))

    bias = np.concatenate([_bias(questions, *sides[questions.name], form_of) for questions in suite.sets])
    return numbers | {f"bias, {form}": float(mean) for form, mean in zip(FORMS, bias.mean(axis=0), strict=True)}


def shares_among_first(scores: NDArray[np.float64], members: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """Returns the share of each group among the `first` candidates of each query, `(queries, groups)`, of `scores
    (queries, candidates)` and 0/1 `members (candidates, groups)`; where candidates tie, the expected one."""
    lowest = np.partition(scores, -first, axis=1)[:, [-first]]
    above, tied = scores > lowest, scores == lowest
    left = (first - above.sum(axis=1)) / tied.sum(axis=1)
    shares: NDArray[np.float64] = (above @ members + left[:, None] * (tied @ members)) / first
    return shares


def _names(base: Suite, questions: EvaluationSet) -> Names:
    """Returns the names that a set gives to its query images: none if it sorts them into classes.

    A text that fits several images is no name, and a set that has not a name for every other image sorts.
    """
    found: Names = {}
    for query in questions_of(base, questions, np.arange(len(questions.queries))):
        image, answers = query.item.image, [query.candidates[place] for place in query.relevant]
        if image is not None and _form(query.item) == "image" and len(answers) == 1 and _form(answers[0]) == "text":
            found[image] = answers[0]
    times = Counter(found.values())
    names = {image: name for image, name in found.items() if times[name] == 1}
    return names if 2 * len(names) > len(found) else {}


def _concepts(base: Suite, questions: EvaluationSet, names: Names) -> Concepts:
    """Returns what a set of queries by text asks for, of the images that have names."""
    candidates = np.unique(np.concatenate([pool.candidates for pool in questions.pools]))
    with_image = [item for item in (base.items[position] for position in candidates) if _form(item) == "image"]
    images = {item.image: item for item in with_image if item.image is not None and item.image in names}
    asked = []
    for query in questions_of(base, questions, np.arange(len(questions.queries))):
        image = query.candidates[next(iter(query.relevant))].image
        if image is None or image not in images or len(query.relevant) > 1 or _form(query.item) != "text":
            continue
        if not _same_text(query.item, names[image]):
            asked.append((query.item, image))
    return Concepts(images, names, asked)


def _bias(questions: EvaluationSet, queries: Side, candidates: Side, form_of: NDArray[np.str_]) -> NDArray[np.float64]:
    """Returns, for each query and form, the share among the first candidates over that of the corpus, `(n, 3)`."""
    scores, found = similarity(queries, candidates), []
    for pool in questions.pools:
        members = (form_of[pool.candidates][:, None] == np.array(FORMS)).astype(np.float64)
        corpus = candidates.rows(pool.candidates)
        asked = queries.rows(questions.queries[pool.rows])
        for rows in np.array_split(asked, -(-len(asked) // QUERIES_AT_ONCE)):
            block = scores.exact(np.repeat(rows, len(corpus)), np.tile(corpus, len(rows))).reshape(len(rows), -1)
            found.append(shares_among_first(block, members, min(FIRST, len(corpus))) / members.mean(axis=0))
    return np.concatenate(found)


def _form(item: Item) -> str:
    with_image = bool(item.image or item.video)
    return "both" if item.text and with_image else "image" if with_image else "text"


def _same_text(one: Item, other: Item) -> bool:
    return (one.text or "").casefold() == (other.text or "").casefold()
