"""Suites derived from another one: the questions of a set one by one, and a suite of sets that are made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from components.corpus import Item, Query
from components.errors import UsageError
from components.evaluation.benchmark import Benchmark, Task
from components.evaluation.scoring import Positions
from components.evaluation.sets import Collection, EvaluationSet, Suite
from components.evaluation.vectors import Side
from components.files import file_sha256

REMEDY = "The evaluation sets that this one was made of are at fault: look at them, or build the data set again."


def questions_of(base: Suite, questions: EvaluationSet, rows: Positions) -> Iterator[Query]:
    """Yields the questions in `rows` of a set, pool by pool; those of one pool share the very same candidates."""
    for pool in questions.pools:
        wanted = np.flatnonzero(np.isin(pool.rows, rows))
        candidates = tuple(base.items[position] for position in pool.candidates) if len(wanted) else ()
        for place in wanted:
            its = pool.relevant[:, 0] == place
            relevant = dict(zip(pool.relevant[its, 1].tolist(), pool.grades[its].tolist(), strict=True))
            yield Query(base.items[questions.queries[pool.rows[place]]], candidates, relevant)


def as_it_is(item: Item) -> Item:
    """The prompt of items that have been worded already."""
    return item


def derived_task(task: Task, group: str, queries: int) -> Task:
    """Returns the task of a set made of another's questions; `group` is what it is averaged with."""
    return task.model_copy(update={"meta_task": group, "queries": queries, "candidates": None, "source": None})


def derived_suite(
    name: str, base: Suite, collection: Collection, sets: Sequence[EvaluationSet], lacks: str, made: Iterable[Path] = ()
) -> Suite:
    """Returns the suite of sets that were made of those of `base`, with the images that were `made` for them.

    Its digest is over the base's, over what is asked and over the bytes of the new images, wherever these lie. Raises
    `UsageError` that says what `base` lacks if there is no set.
    """
    if not sets:
        raise UsageError(f"{name}: {base.benchmark.name} has {lacks}", "Take another suite to derive this one from.")
    suite = collection.suite(Benchmark(name=name, tasks={each.name: each.task for each in sets}), "", base.root, sets)
    digest = hashlib.sha256(f"{base.digest} {name}".encode())
    hashes = {image: file_sha256(image) for image in made}
    for item in suite.items:
        images = [
            hashes.get(image) or os.path.relpath(image, base.root)
            for image in (item.image, *item.video)
            if isinstance(image, Path)
        ]
        digest.update(repr((item.text, item.instruction, images)).encode())
    for questions in sets:
        digest.update(questions.name.encode() + questions.queries.tobytes())
        for pool in questions.pools:
            for part in (pool.rows, pool.candidates, pool.relevant, pool.grades):
                digest.update(part.tobytes())
    return collection.suite(suite.benchmark, digest.hexdigest(), base.root, sets)


def require_one_vector(probe: str, sides: Iterable[tuple[Side, Side]]) -> None:
    """Raises `UsageError` if an item has several vectors, so that there is no place of it in space to speak of."""
    if any(side.bounds is not None for both in sides for side in both):
        raise UsageError(
            f"{probe}: the model gives an item several vectors", "Measure a model that gives each item one vector."
        )
