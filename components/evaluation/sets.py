"""The evaluation sets of a benchmark as positions in one list of different items, so that each item is encoded once.

A candidate that a row lists twice is one candidate: no model can tell the copies apart, so one that is wrong would push
the truth down twice, and a truth would lose to its own copy. It is as relevant as its most relevant copy. The published
code, too, counts a copy of the truth as the truth (VLM2Vec: v1 gives it ties, v2 compares names), so that hit@1, which
MMEB publishes, is the same number; v2 lets copies of wrong candidates take ranks of their own further down. Copies are
alike after the prompt: same text, image, video and instruction.

What a task says about the number of candidates is compared with the number as listed, copies and blanks included; a
score file has the number of different ones, on which the level of chance depends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.corpus import Item, Manifest, Query, task_names
from components.corpus.hashes import verified_digest
from components.corpus.images import names_in
from components.corpus.layout import INGEST_AGAIN, ROWS_PER_GROUP
from components.corpus.row_batches import (
    BLANK,
    Position,
    UnfitRow,
    batches,
    candidate_positions,
    evaluation_columns,
    labels,
    query_positions,
)
from components.corpus.rows import EVAL_SCHEMA, as_filed, plain
from components.embedder.runtime import UnreadableImage, load_image
from components.errors import DataInvalid
from components.evaluation.aggregate import require_complete
from components.evaluation.benchmark import Benchmark, Task
from components.evaluation.scoring import Positions

DIGESTS = "digests"
"""The folder, in that of the vectors, that remembers the hashes of unchanged files."""
Prompt = Callable[[Item], Item]
"""Turns an item as a file words it into what the embedder is given."""

Split = Literal["dev", "eval"]


@dataclass(frozen=True)
class Pool:
    """Queries that share their candidates: `rows (n,)` of the set, `candidates (m,)` positions of items, sorted, each
    once unless the collection keeps copies apart, `relevant (r, 2)` pairs of a place in `rows` and a place in
    `candidates`, and their `grades (r,)`."""

    rows: Positions
    candidates: Positions
    relevant: Positions
    grades: NDArray[np.float64]


@dataclass(frozen=True)
class EvaluationSet:
    """One set: `queries (rows,)` positions of items, and the pools that its rows fall into."""

    name: str
    task: Task
    queries: Positions
    pools: tuple[Pool, ...]


@dataclass(frozen=True)
class Suite:
    """Evaluation sets of a benchmark over one list of different items; `missing` are the sets left out.

    `digest` identifies the files of the data below `root`, images included, `prompts` how models are asked: two
    models whose scores compare may have been given it in other words.
    """

    benchmark: Benchmark
    digest: str
    root: Path
    sets: tuple[EvaluationSet, ...]
    items: tuple[Item, ...]
    prompts: str

    @property
    def missing(self) -> list[str]:
        return sorted(set(self.benchmark.tasks) - {questions.name for questions in self.sets})

    def identity(self, position: int) -> list[object]:
        """Returns what tells the item at `position` apart, in a form that does not depend on where the data lie."""
        item = self.items[position]
        return [item.text, self._named(item.image), [self._named(frame) for frame in item.video], item.instruction]

    def size(self, position: int) -> tuple[int, int, int]:
        """Returns what orders items so that those of like cost are encoded together."""
        item = self.items[position]
        return int(item.image is not None) + len(item.video), len(item.text or ""), int(position)

    def place(self, position: int) -> str:
        """Returns the first set and row that need the item at `position`, in words."""
        for questions in self.sets:
            if len(rows := np.flatnonzero(questions.queries == position)):
                return f"{questions.name}: query of row {rows[0]}"
            if asked := [pool.rows.min() for pool in questions.pools if position in pool.candidates]:
                return f"{questions.name}: a candidate of row {min(asked)}, {self.items[position]}"
        raise IndexError(f"no set needs item {position}")

    def unreadable(self, positions: Positions) -> DataInvalid | None:
        """Returns what names set, row and file of the first item with an image that cannot be read, None if all can."""
        for position in map(int, positions):
            for image in (self.items[position].image, *self.items[position].video):
                try:
                    if image is not None:
                        load_image(image)
                except UnreadableImage as error:
                    file = image if isinstance(image, Path) else "its image"
                    return DataInvalid(f"{self.place(position)}: {file}: {error}", "Get the image again.")
        return None

    def _named(self, image: object) -> object:
        if isinstance(image, Path):
            return os.path.relpath(image, self.root)
        return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image


def read_suite(data: Path, split: Split = "eval", cache: Path | None = None) -> Suite:
    """Returns the sets of a split that the manifest in `data` names; of `eval`, whose scores are kept, the digest is
    verified, for which `cache` remembers the hashes of unchanged files.

    Raises `EmbedlineError` if a set is missing or extra, `DataInvalid` naming set, file and row if a file is not what
    its manifest says, or an image that it names is missing.
    """
    manifest = Manifest.read(data)
    benchmark = manifest_benchmark(manifest, split)
    require_complete(task_names(data, split), benchmark.tasks)
    collection = Collection(INGEST_AGAIN)
    sets = [
        collection.from_parquet(name, task, [data / split / f"{name}.parquet"], data / "images")
        for name, task in sorted(benchmark.tasks.items())
    ]
    suite = collection.suite(benchmark, manifest.digest, data, sets)
    if split == "eval":
        verify(suite, cache)
    return suite


def verify(suite: Suite, cache: Path | None) -> None:
    """Computes the digest of a data set's files, images included. Raises `DataInvalid` naming the first files that are
    not those that the manifest vouches for, and for an image the first set and row that need it."""

    def described(file: Path) -> str:
        shown = [position for position, item in enumerate(suite.items) if file in (item.image, *item.video)]
        return f"{file} ({suite.place(shown[0])})" if shown else str(file)

    verified_digest(suite.root, cache and cache / DIGESTS, described)


def manifest_benchmark(manifest: Manifest, split: Split = "eval") -> Benchmark:
    """Returns the table of a data set's own sets of queries."""
    tasks = {
        name: Task(
            modality="image",
            meta_task=task.meta_task,
            distribution=task.distribution,
            queries=task.rows,
            candidates=task.candidates,
            metric="hit@1",
            pool="local",
            layout="embedline",
            prompt="plain",
            source=None,
        )
        for name, task in getattr(manifest.tasks, split).items()
    }
    return Benchmark(name=manifest.name if split == "eval" else f"{manifest.name}-{split}", tasks=tasks)


@dataclass
class Collection:
    """Collects the different items of evaluation sets while these are read.

    A candidate with neither text nor image is an error, or, as MMEB's own files have some, left out: `without_blanks`.
    Candidates of a row that are the same item are one, unless not `merged`: a suite that takes away on purpose what
    tells candidates apart wants them tied.
    """

    remedy: str
    without_blanks: bool = False
    merged: bool = True
    positions: dict[Item, int] = field(default_factory=dict)
    _folders: dict[Path, frozenset[str]] = field(default_factory=dict)

    def suite(
        self, benchmark: Benchmark, digest: str, root: Path, sets: Sequence[EvaluationSet], prompts: str | None = None
    ) -> Suite:
        """Returns the sets over all items collected; `prompts` is made of the items' instructions unless given."""
        items = tuple(self.positions)
        return Suite(benchmark, digest, root, tuple(sets), items, prompts or _instructions(sets, items))

    def from_parquet(
        self,
        name: str,
        task: Task,
        files: Sequence[Path],
        images: Path,
        query: Prompt = plain,
        target: Prompt = plain,
    ) -> EvaluationSet:
        """Returns a set in MMEB's columns.

        Raises `DataInvalid` naming set, file and row if it is not what its task says, or if an image is missing or not
        below `images`.
        """
        queries: list[Positions] = []
        pools = _Pools(self.merged)
        ask, answer = (cache(partial(self._position, images, prompt)) for prompt in (query, target))
        for file in files:
            first = 0
            try:
                with pq.ParquetFile(file) as parquet:
                    columns = evaluation_columns(parquet.schema_arrow)
                    for batch in batches(parquet, columns, ROWS_PER_GROUP[EVAL_SCHEMA]):
                        queries.append(query_positions(batch, ask))
                        self._add(batch, answer, pools)
                        first += batch.num_rows
            except UnfitRow as error:
                raise DataInvalid(f"{name}: {file}: row {first + error.row}: {error}", self.remedy) from error
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataInvalid(f"{name}: {file}: is no evaluation set: {error}", self.remedy) from error
        pools.require(task, f"{name}: {files[0]}", self.remedy)
        return EvaluationSet(name, task, np.concatenate(queries), pools.frozen())

    def from_queries(
        self, name: str, task: Task, queries: Iterable[Query], query: Prompt = plain, target: Prompt = plain
    ) -> EvaluationSet:
        """Returns a set of queries; those with the very same tuple of candidates are looked at once."""
        found, asked, pools = np.zeros(0, np.int32), [], _Pools(self.merged)
        candidates: Sequence[Item] = ()
        for row, question in enumerate(queries):
            asked.append(self._of(query(question.item)))
            if question.candidates is not candidates:
                candidates = question.candidates
                found = np.array([self._of(target(item)) for item in candidates], np.int32)
            try:
                pools.add(found, question.relevant)
            except ValueError as error:
                raise DataInvalid(f"{name}: row {row}: {error}", self.remedy) from error
        pools.require(task, name, self.remedy)
        return EvaluationSet(name, task, np.array(asked, np.int32), pools.frozen())

    def _add(self, batch: pa.RecordBatch, answer: Position, pools: _Pools) -> None:
        found = zip(candidate_positions(batch, answer, self.without_blanks), labels(batch), strict=True)
        for row, (candidates, relevant) in enumerate(found):
            try:
                pools.add(candidates, dict.fromkeys(relevant, 1.0))
            except ValueError as error:
                raise UnfitRow(row, str(error)) from error

    def _position(self, images: Path, prompt: Prompt, text: str, path: str, instruction: str) -> int:
        item = as_filed(images, instruction, text, path)
        if isinstance(item.image, Path):
            self._require(item.image)
        item = prompt(item)
        return BLANK if item.is_empty else self._of(item)

    def _require(self, file: Path) -> None:
        """Raises `ValueError` if an image is missing."""
        if file.parent not in self._folders:
            self._folders[file.parent] = names_in(file.parent)
        if file.name not in self._folders[file.parent]:
            raise ValueError(f"missing image: {file}")

    def _of(self, item: Item) -> int:
        return self.positions.setdefault(item, len(self.positions))


@dataclass
class _Pools:
    """Sorts rows into pools. Lists of the same candidates are one pool, in whatever order the file holds them."""

    merged: bool
    row_count: int = 0
    largest: int = 0
    pools: dict[bytes, tuple[Positions, list[int], list[tuple[int, int]], list[float]]] = field(default_factory=dict)
    seen: dict[bytes, tuple[bytes, NDArray[np.intp]]] = field(default_factory=dict)

    def add(self, candidates: Positions, grades: Mapping[int, float]) -> None:
        """Adds a row. Raises `ValueError` that says why it cannot be scored."""
        length = len(candidates)
        if wrong := [label for label in grades if label not in range(length)]:
            raise ValueError(f"label {wrong[0]} of {length} candidates")
        blank = candidates == BLANK
        if lost := [label for label in grades if blank[label]]:
            raise ValueError(f"label {lost[0]} is blank")
        if not any(grade > 0 for grade in grades.values()):
            raise ValueError("no candidate is relevant")
        written = candidates.tobytes()
        if written not in self.seen:
            in_order, places = self._in_order(candidates[~blank])
            self.pools.setdefault(in_order.tobytes(), (in_order, [], [], []))
            self.seen[written] = in_order.tobytes(), places[np.cumsum(~blank) - 1]
        pool, places = self.seen[written]
        graded: dict[int, float] = {}
        for label, grade in sorted(grades.items()):
            if grade > 0:
                place = int(places[label])
                graded[place] = max(grade, graded.get(place, grade))
        _, rows, relevant, pool_grades = self.pools[pool]
        relevant += [(len(rows), place) for place in graded]
        pool_grades += graded.values()
        rows.append(self.row_count)
        self.row_count += 1
        self.largest = max(self.largest, length)

    def _in_order(self, candidates: Positions) -> tuple[Positions, NDArray[np.intp]]:
        """Returns the candidates in order, copies as one if they are merged, and where each of them is there now."""
        if self.merged:
            return np.unique(candidates, return_inverse=True)
        order = np.argsort(candidates, kind="stable")
        return candidates[order], np.argsort(order)

    def require(self, task: Task, origin: str, remedy: str) -> None:
        expected = (task.queries, self.largest if task.candidates is None else task.candidates)
        if (self.row_count, self.largest) != expected:
            raise DataInvalid(
                f"{origin}: {self.row_count} rows with up to {self.largest} candidates; "
                f"there should be {expected[0]} with up to {expected[1]}",
                remedy,
            )

    def frozen(self) -> tuple[Pool, ...]:
        return tuple(
            Pool(np.array(rows, np.int32), candidates, np.array(relevant, np.int32), np.array(grades))
            for candidates, rows, relevant, grades in self.pools.values()
        )


def _instructions(sets: Sequence[EvaluationSet], items: Sequence[Item]) -> str:
    """Returns the SHA-256 over the different instructions of every set, of its queries and of its candidates."""
    found = {
        questions.name: [
            sorted({items[position].instruction or "" for position in np.unique(side)})
            for side in (questions.queries, np.concatenate([pool.candidates for pool in questions.pools]))
        ]
        for questions in sets
    }
    return _digest(found)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
