"""Text-to-image retrieval that is the same in every language: a set a language, and each language's gap to English.

The sets are parallel, row by row: they ask for the same images among the same candidates, so that only the language
differs. They come from the data set (`multilingual/`), or from XTD (`components/evaluation/xtd.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from components.corpus import Manifest, task_names
from components.corpus.layout import INGEST_AGAIN
from components.corpus.manifest import Distribution
from components.errors import DataInvalid, UsageError
from components.evaluation.aggregate import groups, require_complete
from components.evaluation.benchmark import Benchmark, Task
from components.evaluation.sets import Collection, EvaluationSet, Suite
from components.evaluation.vectors import Side
from components.scores import Scores

ENGLISH = "en"
GROUPS = {"overall": "all languages", "IND": "trained languages", "OOD": "unseen languages"}


def build(base: Suite, images: Path) -> Suite:
    """Returns the multilingual sets of the data set that `base` was read from, each under its language's CLDR code.

    Raises `UsageError` if the data set has none, or none in English, `EmbedlineError` if one is missing, `DataInvalid`
    if one is broken or asks for other images than English.
    """
    folder = base.root / "multilingual"
    found = Manifest.read(base.root).tasks.multilingual if folder.is_dir() else {}
    if ENGLISH not in found:
        raise UsageError(
            f"{base.root}: the data set has no multilingual sets, or none in English",
            "The emoji corpus has them; if yours is of an earlier version, delete data/ and run `embedline ingest`.",
        )
    require_complete(task_names(base.root, "multilingual"), found)
    tasks = {
        language: language_task(task.rows, task.candidates, task.distribution, "hit@1", "embedline")
        for language, task in found.items()
    }
    collection = Collection(INGEST_AGAIN)
    sets = [
        collection.from_parquet(language, task, [folder / f"{language}.parquet"], base.root / "images")
        for language, task in tasks.items()
    ]
    asked = {questions.name: _asked(questions) for questions in sets}
    if other := [language for language in asked if asked[language] != asked[ENGLISH]]:
        raise DataInvalid(
            f"{folder}: {', '.join(other)}: asks for other images than {ENGLISH}, row by row", INGEST_AGAIN
        )
    return collection.suite(Benchmark(name="multilingual", tasks=tasks), base.digest, base.root, sets)


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    """Returns the score of each language and how far it is below English, and their means, in the sets' metric, 0 to 1.

    The means are over all languages, and over the trained and the unseen ones where the sets tell them apart. English
    is a trained language; it counts in the mean scores, as in `Scores.aggregates`, and not in the mean gaps.
    """
    found = {language: scores.tasks[language].score for language in suite.benchmark.tasks}
    gaps = {language: found[ENGLISH] - score for language, score in found.items() if language != ENGLISH}
    numbers = {f"score, {language}": score for language, score in found.items()}
    numbers |= {f"gap to English, {language}": gap for language, gap in gaps.items()}
    for group, languages in groups(suite.benchmark.tasks).items():
        if group in GROUPS:
            numbers[f"mean score, {GROUPS[group]}"] = float(np.mean([found[language] for language in languages]))
            if others := [gaps[language] for language in languages if language != ENGLISH]:
                numbers[f"mean gap to English, {GROUPS[group]}"] = float(np.mean(others))
    return numbers


def _asked(questions: EvaluationSet) -> list[tuple[bytes, ...]]:
    """Returns what a set asks for, whatever its words: rows, candidates and which of them are relevant."""
    return [(pool.rows.tobytes(), pool.candidates.tobytes(), pool.relevant.tobytes()) for pool in questions.pools]


def language_task(queries: int, candidates: int, distribution: Distribution | None, metric: str, layout: str) -> Task:
    """Returns the task of one language's set."""
    return Task(
        modality="image",
        meta_task="retrieval",
        distribution=distribution,
        queries=queries,
        candidates=candidates,
        metric=metric,
        pool="global",
        layout=layout,
        prompt="plain",
        source=None,
    )
