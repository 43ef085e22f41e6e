"""Suites by name: the data set's own sets, MMEB from a local mirror, and what is derived from the data set's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.corpus.manifest import file_sha256
from components.errors import UsedWrongly
from components.evaluation.benchmark import Benchmark, Task, read_benchmark
from components.evaluation.loaders import IMAGE_LAYOUTS, LOADERS, image_set
from components.evaluation.prompts import plain, render
from components.evaluation.sets import Collection, EvaluationSet, Prompt, Suite

MEND = "Get the complete set again from the repository that `source` names in the benchmark's table."


def mirrored_suite(benchmark: str, mirror: Path, tasks: Sequence[str] = (), backbone: str | None = None) -> Suite:
    """Returns the sets of a published benchmark from a folder that holds them, all of them or those named in `tasks`.

    `backbone` is the family whose prompt the embedder wants in one text; without it text and instruction stay apart.
    Raises `UsedWrongly` for an unknown benchmark or set, `EmbedlineError` naming what is missing or broken.
    """
    table = read_benchmark(benchmark)
    if unknown := sorted(set(tasks) - set(table.tasks)):
        raise UsedWrongly(
            f"{benchmark} has no set {', '.join(unknown)}", f"Its sets are: {', '.join(sorted(table.tasks))}."
        )
    if not mirror.is_dir():
        raise UsedWrongly(f"{mirror}: no such folder", f"Name the folder that holds {benchmark}'s sets with --mirror.")
    collection = Collection(MEND, without_blanks=True)
    sets = [
        _load(collection, name, task, mirror, backbone)
        for name, task in table.tasks.items()
        if name in tasks or not tasks
    ]
    parsers = hashlib.sha256(repr([(name, task.prompt) for name, task in table.tasks.items()]).encode()).hexdigest()
    return collection.suite(table, _content(table, sets, collection), mirror, sets, parsers)


def _load(collection: Collection, name: str, task: Task, mirror: Path, backbone: str | None) -> EvaluationSet:
    query, target = _prompt(task, "query", backbone), _prompt(task, "target", backbone)
    if task.layout in IMAGE_LAYOUTS:
        found = image_set(name, task, mirror)
        return collection.from_parquet(name, task, found.files, found.images, query, target)
    return collection.from_queries(name, task, LOADERS[task.layout](name, task, mirror), query, target)


def _prompt(task: Task, side: Literal["query", "target"], backbone: str | None) -> Prompt:
    return plain if backbone is None else partial(render, task.prompt, side, backbone=backbone)


def _content(benchmark: Benchmark, sets: Sequence[EvaluationSet], collection: Collection) -> str:
    """Returns the SHA-256 of all that a score depends on: items, the bytes of their pictures, and what is relevant."""
    digest = hashlib.sha256(benchmark.name.encode())
    for questions in sets:
        digest.update(questions.name.encode() + questions.queries.tobytes())
        for pool in questions.pools:
            for part in (pool.rows, pool.candidates, pool.relevant, pool.grades):
                digest.update(part.tobytes())
    pictures = list({picture: None for item in collection.positions for picture in _pictures(item)})
    with ThreadPoolExecutor() as threads:
        hashes = dict(zip(pictures, threads.map(_sha256, pictures), strict=True))
    for item in collection.positions:
        digest.update(repr((item.text, item.instruction, [hashes[picture] for picture in _pictures(item)])).encode())
    return digest.hexdigest()


def _pictures(item: Item) -> list[Path | bytes]:
    return [picture for picture in (item.image, *item.video) if isinstance(picture, Path | bytes)]


def _sha256(picture: Path | bytes) -> str:
    return file_sha256(picture) if isinstance(picture, Path) else hashlib.sha256(picture).hexdigest()
