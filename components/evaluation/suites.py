"""Suites by name: the data set's own sets, MMEB from a local mirror, and what is derived from the data set's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.corpus.hashes import FileHashes
from components.corpus.rows import plain
from components.errors import UsageError
from components.evaluation.benchmark import Benchmark, Task, read_benchmark
from components.evaluation.loaders import IMAGE_LAYOUTS, LOADERS, image_set
from components.evaluation.prompts import render
from components.evaluation.sets import DIGESTS, Collection, EvaluationSet, Prompt, Suite

REMEDY = "Get the complete set again from the repository that `source` names in the benchmark's table."


def mirrored_suite(
    benchmark: str, mirror: Path, tasks: Sequence[str] = (), backbone: str | None = None, cache: Path | None = None
) -> Suite:
    """Returns the sets of a published benchmark from a folder that holds them, all of them or those named in `tasks`.

    `backbone` is the family whose prompt the embedder wants in one text; without it text and instruction stay apart.
    The suite's digest is that of the rows as the files word them, whatever the backbone; its prompts are the backbone's
    own. `cache` remembers the hashes of unchanged images.

    Raises `UsageError` for an unknown benchmark or set, `EmbedlineError` naming what is missing or broken.
    """
    table = read_benchmark(benchmark)
    require_known(benchmark, tasks, table)
    if not mirror.is_dir():
        raise UsageError(f"{mirror}: no such folder", f"Name the folder that holds {benchmark}'s sets with --mirror.")
    worded, filed = Collection(REMEDY, without_blanks=True), Collection(REMEDY)
    pairs = [
        _load((worded, filed), name, task, mirror, backbone)
        for name, task in table.tasks.items()
        if name in tasks or not tasks
    ]
    hashes = FileHashes(mirror, cache and cache / DIGESTS / f"{benchmark}.json")
    digest = _content(table, [rows for _, rows in pairs], filed, hashes)
    hashes.keep()
    parsers = [(name, task.prompt) for name, task in table.tasks.items()]
    prompts = hashlib.sha256(repr((parsers, backbone)).encode()).hexdigest()
    return worded.suite(table, digest, mirror, [questions for questions, _ in pairs], prompts)


def chosen(suite: Suite, tasks: Sequence[str]) -> Suite:
    """Returns the suite with these of its sets alone, or with all if there are none. Raises `UsageError` that names
    the known ones if it has no such set."""
    require_known(suite.benchmark.name, tasks, suite.benchmark)
    return replace(suite, sets=tuple(each for each in suite.sets if each.name in tasks or not tasks))


def require_known(name: str, tasks: Sequence[str], benchmark: Benchmark) -> None:
    if unknown := sorted(set(tasks) - set(benchmark.tasks)):
        raise UsageError(
            f"{name} has no set {', '.join(unknown)}", f"Its sets are: {', '.join(sorted(benchmark.tasks))}."
        )


def _load(
    collections: tuple[Collection, Collection], name: str, task: Task, mirror: Path, backbone: str | None
) -> tuple[EvaluationSet, EvaluationSet]:
    """Returns a set as the model is asked it, and as the files word it."""
    prompts = (_prompt(task, "query", backbone), _prompt(task, "target", backbone)), (_as_filed, _as_filed)
    if task.layout in IMAGE_LAYOUTS:
        found = image_set(name, task, mirror)
        worded, filed = (
            collection.from_parquet(name, task, found.files, found.images, query, target)
            for collection, (query, target) in zip(collections, prompts, strict=True)
        )
    else:
        questions = list(LOADERS[task.layout](name, task, mirror))
        worded, filed = (
            collection.from_queries(name, task, questions, query, target)
            for collection, (query, target) in zip(collections, prompts, strict=True)
        )
    return worded, filed


def _as_filed(item: Item) -> Item:
    """Returns an item that is never empty, so that blank candidates count too."""
    return replace(item, text=repr(item.text))


def _prompt(task: Task, side: Literal["query", "target"], backbone: str | None) -> Prompt:
    return plain if backbone is None else partial(render, task.prompt, side, backbone=backbone)


def _content(benchmark: Benchmark, sets: Sequence[EvaluationSet], collection: Collection, hashes: FileHashes) -> str:
    """Returns the SHA-256 of all that a score depends on: items, the bytes of their images, and what is relevant."""
    digest = hashlib.sha256(benchmark.name.encode())
    for questions in sets:
        digest.update(questions.name.encode() + questions.queries.tobytes())
        for pool in questions.pools:
            for part in (pool.rows, pool.candidates, pool.relevant, pool.grades):
                digest.update(part.tobytes())
    images = {image: None for item in collection.positions for image in _images(item)}
    found: dict[Path | bytes, str] = {}
    found.update((image, hashlib.sha256(image).hexdigest()) for image in images if isinstance(image, bytes))
    found.update(hashes.of([image for image in images if isinstance(image, Path)]).items())
    for item in collection.positions:
        digest.update(repr((item.text, item.instruction, [found[image] for image in _images(item)])).encode())
    return digest.hexdigest()


def _images(item: Item) -> list[Path | bytes]:
    return [image for image in (item.image, *item.video) if isinstance(image, Path | bytes)]
