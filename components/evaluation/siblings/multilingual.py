"""Text-to-image retrieval that is the same in every language: a set a language, and each language's gap to English.

The sets are parallel, row by row: they ask for the same pictures among the same candidates, so that only the language
differs. They come from the data set (`multilingual/`), or from XTD.

Source: Aggarwal and Kale 2020, Towards Zero-shot Cross-lingual Image Retrieval (arXiv 2012.05107), which reports
recall@10; its files are those of the repository adobe-research/Cross-lingual-Test-Dataset-XTD10.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from components.corpus import Item, Manifest, Query, task_names
from components.corpus.manifest import Distribution, file_sha256
from components.errors import DataInvalid, UsedWrongly
from components.evaluation.aggregate import groups, require_complete
from components.evaluation.benchmark import Benchmark, Task
from components.evaluation.sets import MEND, Collection, EvaluationSet, Suite
from components.evaluation.vectors import Side
from components.scores import Scores

ENGLISH = "en"
CAPTIONS, IMAGE_NAMES = "test_1kcaptions_", "test_image_names.txt"
XTD_AGAIN = "Get XTD again: git clone https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10"
GROUPS = {"overall": "all languages", "IND": "trained languages", "OOD": "unseen languages"}


def build(base: Suite) -> Suite:
    """Returns the multilingual sets of the data set that `base` was read from, each under its language's CLDR code.

    Raises `UsedWrongly` if the data set has none, or none in English, `EmbedlineError` if one is missing, `DataInvalid`
    if one is broken or asks for other pictures than English.
    """
    folder = base.root / "multilingual"
    found = Manifest.read(base.root).tasks.multilingual if folder.is_dir() else {}
    if ENGLISH not in found:
        raise UsedWrongly(
            f"{base.root}: the data set has no multilingual sets, or none in English",
            "The emoji corpus has them; if yours is of an earlier version, delete data/ and run `embedline ingest`.",
        )
    require_complete(task_names(base.root, "multilingual"), found)
    tasks = {
        language: _task(task.rows, task.candidates, task.distribution, "hit@1", "embedline")
        for language, task in found.items()
    }
    collection = Collection(MEND)
    sets = [
        collection.from_parquet(language, task, [folder / f"{language}.parquet"], base.root / "images")
        for language, task in tasks.items()
    ]
    asked = {questions.name: _asked(questions) for questions in sets}
    if other := [language for language in asked if asked[language] != asked[ENGLISH]]:
        raise DataInvalid(f"{folder}: {', '.join(other)}: asks for other pictures than {ENGLISH}, row by row", MEND)
    return collection.suite(Benchmark(name="multilingual", tasks=tasks), base.digest, base.root, sets)


def xtd_suite(folder: Path, images: Path) -> Suite:
    """Returns XTD in all the languages that `folder` holds at any depth, each under the code in its file's name.

    `images` holds the pictures of MSCOCO 2014 that XTD names, at any depth. Raises `UsedWrongly` if there are no
    captions in English or two files for a language, `DataInvalid` if a caption, its picture or the list of pictures is
    missing.
    """
    found = sorted(folder.rglob(f"{CAPTIONS}*.txt"))
    files = {file.stem.removeprefix(CAPTIONS): file for file in found}
    if ENGLISH not in files or len(files) < len(found):
        raise UsedWrongly(
            f"{folder}: should hold one {CAPTIONS}LANGUAGE.txt for each language, {ENGLISH} among them",
            "Name the folder that holds XTD's folders MIC, STAIR and XTD10.",
        )
    listed = next(folder.rglob(IMAGE_NAMES), folder / IMAGE_NAMES)
    pictures = _pictures(_lines(listed), images)
    candidates = tuple(Item(image=picture) for picture in pictures)
    tasks = {language: _task(len(candidates), len(candidates), None, "recall@10", "xtd") for language in files}
    collection = Collection(XTD_AGAIN)
    sets = [
        collection.from_queries(language, tasks[language], _queries(file, candidates))
        for language, file in files.items()
    ]
    digest = _digest([*files.values(), listed, *pictures])
    return collection.suite(Benchmark(name="xtd", tasks=tasks), digest, images, sets)


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


def _task(queries: int, candidates: int, distribution: Distribution | None, metric: str, layout: str) -> Task:
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


def _queries(file: Path, candidates: tuple[Item, ...]) -> Iterator[Query]:
    """Yields the captions of a file, of which each is that of the picture in its place."""
    captions = _lines(file)
    if len(captions) != len(candidates):
        raise DataInvalid(f"{file}: {len(captions)} captions of {len(candidates)} pictures", XTD_AGAIN)
    for row, caption in enumerate(captions):
        yield Query(Item(caption), candidates, {row: 1.0})


def _lines(file: Path) -> list[str]:
    """Returns the lines without white space around them. Raises `DataInvalid` if there is no text in one."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file} cannot be read: {error}", XTD_AGAIN) from error
    stripped = [line.strip() for line in lines]
    if "" in stripped:
        raise DataInvalid(f"{file}: line {stripped.index('') + 1} is empty", XTD_AGAIN)
    return stripped


def _pictures(names: list[str], images: Path) -> list[Path]:
    """Returns the pictures in the order of their names. Raises `DataInvalid` if one is missing or named twice."""
    if len(set(names)) < len(names):
        raise DataInvalid(f"{IMAGE_NAMES}: names a picture twice", XTD_AGAIN)
    wanted = set(names)
    found = {file.name: file for file in images.rglob("*") if file.name in wanted}
    if missing := [name for name in names if name not in found]:
        raise DataInvalid(
            f"{images}: {len(missing)} of {len(names)} pictures are missing, the first is {missing[0]}",
            "They are in train2014.zip and val2014.zip of MSCOCO (cocodataset.org).",
        )
    return [found[name] for name in names]


def _digest(files: Iterable[Path]) -> str:
    """Returns one SHA-256 over the names and contents of the files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()
