"""Visual documents in BEIR's form: the tables `queries`, `corpus` and `qrels` (github.com/beir-cellar/beir).

A corpus holds its pages as bytes in Parquet. They are written once to a folder beside the mirror that is named after
the corpus's hash, so that memory does not grow with it. A query's candidates are all pages; grades are kept.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from components.corpus import Item, Query
from components.corpus.images import image_source
from components.errors import DataInvalid
from components.evaluation.benchmark import Task
from components.evaluation.loaders.mirror import (
    media_folders,
    published,
    tables,
    unpacked,
    verified_sha256,
    written_once,
)
from components.evaluation.loaders.tables import AGAIN, Loader, checked, rows, understood

FIND = "Find a document image that matches the given query:"
UNDERSTAND = "Understand the content of the provided document image."
PAGES_AT_ONCE = 16


def beir(name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields the queries of a set, all with the same candidates: every page of its corpus."""
    corpus = _table(name, task, mirror, "corpus")
    positions = _positions(corpus)
    pages = _pages(name, corpus, len(positions), mirror.resolve())
    candidates = tuple(Item(image=page, instruction=UNDERSTAND) for page in pages)
    grades = _grades(_table(name, task, mirror, "qrels"), positions)
    for place, row in rows(_table(name, task, mirror, "queries"), ("query-id", "query")):
        if row["query-id"] not in grades:
            raise DataInvalid(f"{place}: no page is relevant to the query {row['query-id']!r}", AGAIN)
        yield Query(Item(row["query"], instruction=FIND), candidates, grades[row["query-id"]])


LOADERS: dict[str, Loader] = {"beir": checked(beir)}


def _table(name: str, task: Task, mirror: Path, part: str) -> list[Path]:
    """Returns the files of one of the three tables, from the set's repository or from the copy of it in MMEB v2."""
    source = published(name, task).model_copy(update={"configuration": part})
    repository = source.repository.split("/")[-1]
    copies = (unpacked(media, "visdoc-tasks/data") / repository for media in media_folders(mirror))
    return tables(name, source, mirror, copies)


def _positions(corpus: Sequence[Path]) -> dict[object, int]:
    """Returns the position of each page of the corpus by its id."""
    positions: dict[object, int] = {}
    for place, row in rows(corpus, ("corpus-id",)):
        if row["corpus-id"] in positions:
            raise DataInvalid(f"{place}: the id {row['corpus-id']!r} occurs twice", AGAIN)
        positions[row["corpus-id"]] = len(positions)
    return positions


def _grades(qrels: Sequence[Path], positions: dict[object, int]) -> dict[object, dict[int, float]]:
    """Returns the grades of each query's relevant pages; of several for one page the highest."""
    grades: dict[object, dict[int, float]] = {}
    for place, row in rows(qrels, ("query-id", "corpus-id", "score")):
        with understood(place):
            page, grade = row["corpus-id"], float(row["score"])
        if grade <= 0:
            continue
        if page not in positions:
            raise DataInvalid(f"{place}: the page {page!r} is not in the corpus", AGAIN)
        of_query = grades.setdefault(row["query-id"], {})
        of_query[positions[page]] = max(grade, of_query.get(positions[page], 0.0))
    return grades


def _pages(name: str, corpus: Sequence[Path], count: int, mirror: Path) -> list[Path]:
    """Returns the files of the pages in the order of the corpus; writes them if they are not there yet."""
    digest = hashlib.sha256("".join(verified_sha256(file) for file in corpus).encode()).hexdigest()
    folder = mirror.with_name(f"{mirror.name}-pages") / f"{name}-{digest[:16]}"
    written_once(folder, partial(_write_pages, corpus))
    pages = {int(page.stem): page for page in folder.iterdir()}
    if missing := sorted(set(range(count)) - set(pages)):
        raise DataInvalid(
            f"{name}: {folder} lacks page {missing[0]} of the corpus", "Delete the folder, it is written anew."
        )
    return [pages[number] for number in range(count)]


def _write_pages(corpus: Sequence[Path], folder: Path) -> None:
    for number, (place, row) in enumerate(rows(corpus, ("image",), PAGES_AT_ONCE)):
        with understood(place):
            source = image_source(row["image"], corpus[0].parent)
            content = source if isinstance(source, bytes) else source.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as image:
                suffix = str(image.format).lower()
        except (OSError, Image.DecompressionBombError) as error:
            raise DataInvalid(f"{place}: its image is broken: {error}", AGAIN) from error
        (folder / f"{number:06}.{suffix}").write_bytes(content)
