"""The evaluation sets of a benchmark as positions in one list of different items, so that each item is encoded once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.corpus import Item, Manifest, Query, task_names
from components.corpus.layout import EVAL_SCHEMA, ROWS_PER_GROUP
from components.errors import DataInvalid
from components.evaluation.aggregate import require_complete
from components.evaluation.benchmark import Benchmark, Task
from components.evaluation.loaders.tables import batches
from components.evaluation.prompts import plain
from components.evaluation.scoring import Positions
from components.evaluation.verified import verified

MEND = "Build the data set again with `embedline ingest`."
BLANK = -1
Prompt = Callable[[Item], Item]
"""Turns an item as a file words it into what the embedder is given."""

Split = Literal["dev", "eval"]


@dataclass(frozen=True)
class Pool:
    """Queries that share their candidates: `rows (n,)` of the set, `candidates (m,)` positions of items, sorted,
    `relevant (r, 2)` pairs of a place in `rows` and a place in `candidates`, and their `grades (r,)`."""

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

    def _named(self, image: object) -> object:
        if isinstance(image, Path):
            return os.path.relpath(image, self.root)
        return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else image


def read_suite(data: Path, split: Split = "eval", cache: Path | None = None) -> Suite:
    """Returns the sets of a split that the manifest in `data` names; of `eval`, whose scores are kept, the digest is
    verified, for which `cache` remembers the hashes of unchanged files.

    Raises `EmbedlineError` if a set is missing or extra, `DataInvalid` if a file is not what its manifest says.
    """
    manifest = Manifest.read(data)
    benchmark = manifest_benchmark(manifest, split)
    require_complete(task_names(data, split), benchmark.tasks)
    collection = Collection(MEND)
    sets = [
        collection.from_parquet(name, task, [data / split / f"{name}.parquet"], data / "images")
        for name, task in sorted(benchmark.tasks.items())
    ]
    suite = collection.suite(benchmark, manifest.digest, data, sets)
    return verified(suite, cache) if split == "eval" else suite


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
    """

    mend: str
    without_blanks: bool = False
    positions: dict[Item, int] = field(default_factory=dict)

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
        """Returns a set in MMEB's columns. Raises `DataInvalid` if it is not what its task says."""
        queries: list[Positions] = []
        pools = _Pools(f"{files[0]}", self.mend)
        ask, answer = (cache(partial(self._position, images, prompt)) for prompt in (query, target))
        for file in files:
            try:
                with pq.ParquetFile(file) as parquet:
                    for batch in batches(parquet, parquet.schema_arrow.names, ROWS_PER_GROUP[EVAL_SCHEMA]):
                        text, path, instruction = (
                            _codes(batch, column) for column in ("qry_text", "qry_img_path", "qry_inst")
                        )
                        queries.append(_items(ask, text, path, instruction))
                        for candidates, labels in zip(_candidates(batch, answer), _labels(batch), strict=True):
                            pools.add(candidates, dict.fromkeys(labels, 1.0))
            except (pa.ArrowException, KeyError, ValueError) as error:
                raise DataInvalid(f"{file}: is no evaluation set: {error}", self.mend) from error
        pools.require(task)
        asked = np.concatenate(queries)
        if (asked == BLANK).any():
            raise DataInvalid(f"{files[0]}: row {np.argmin(asked)}: the query has neither text nor image", self.mend)
        return EvaluationSet(name, task, asked, pools.frozen())

    def from_queries(
        self, name: str, task: Task, queries: Iterable[Query], query: Prompt = plain, target: Prompt = plain
    ) -> EvaluationSet:
        """Returns a set of queries; those with the very same tuple of candidates are looked at once."""
        found, asked, pools = np.zeros(0, np.int32), [], _Pools(name, self.mend)
        candidates: Sequence[Item] = ()
        for question in queries:
            asked.append(self._of(query(question.item)))
            if question.candidates is not candidates:
                candidates = question.candidates
                found = np.array([self._of(target(item)) for item in candidates], np.int32)
            pools.add(found, question.relevant)
        pools.require(task)
        return EvaluationSet(name, task, np.array(asked, np.int32), pools.frozen())

    def _position(self, images: Path, prompt: Prompt, text: str, path: str, instruction: str) -> int:
        item = prompt(Item(text or None, images / path if path else None, instruction=instruction or None))
        if item.is_empty and self.without_blanks:
            return BLANK
        if item.is_empty:
            raise ValueError("an item has neither text nor image")
        return self._of(item)

    def _of(self, item: Item) -> int:
        return self.positions.setdefault(item, len(self.positions))


@dataclass
class _Pools:
    """Sorts rows into pools. Lists of the same candidates are one pool, in whatever order the file holds them."""

    origin: str
    mend: str
    row_count: int = 0
    largest: int = 0
    pools: dict[bytes, tuple[Positions, list[int], list[tuple[int, int]], list[float]]] = field(default_factory=dict)
    seen: dict[bytes, tuple[bytes, NDArray[np.intp]]] = field(default_factory=dict)

    def add(self, candidates: Positions, grades: Mapping[int, float]) -> None:
        length = len(candidates)
        if (blank := candidates == BLANK).any():
            if lost := [label for label in grades if 0 <= label < length and blank[label]]:
                raise DataInvalid(f"{self.origin}: row {self.row_count}: label {lost[0]} is blank", self.mend)
            moved = np.cumsum(~blank) - 1
            grades = {int(moved[label]) if 0 <= label < length else label: grades[label] for label in grades}
            candidates = candidates[~blank]
        wrong = [label for label in grades if not 0 <= label < len(candidates)]
        graded = {label: grade for label, grade in grades.items() if grade > 0}
        if wrong or not graded:
            defect = f"label {wrong[0]} of {length} candidates" if wrong else "no candidate is relevant"
            raise DataInvalid(f"{self.origin}: row {self.row_count}: {defect}", self.mend)
        written = candidates.tobytes()
        if written not in self.seen:
            order = np.argsort(candidates, kind="stable")
            in_order = candidates[order]
            self.pools.setdefault(in_order.tobytes(), (in_order, [], [], []))
            self.seen[written] = in_order.tobytes(), np.argsort(order)
        pool, places = self.seen[written]
        _, rows, relevant, pool_grades = self.pools[pool]
        relevant += [(len(rows), int(places[label])) for label in sorted(graded)]
        pool_grades += [graded[label] for label in sorted(graded)]
        rows.append(self.row_count)
        self.row_count += 1
        self.largest = max(self.largest, length)

    def require(self, task: Task) -> None:
        expected = (task.queries, self.largest if task.candidates is None else task.candidates)
        if (self.row_count, self.largest) != expected:
            raise DataInvalid(
                f"{self.origin}: {self.row_count} rows with up to {self.largest} candidates; "
                f"there should be {expected[0]} with up to {expected[1]}",
                self.mend,
            )

    def frozen(self) -> tuple[Pool, ...]:
        return tuple(
            Pool(np.array(rows, np.int32), candidates, np.array(relevant, np.int32), np.array(grades))
            for candidates, rows, relevant, grades in self.pools.values()
        )


def _candidates(batch: pa.RecordBatch, position: Callable[[str, str, str], int]) -> Iterator[Positions]:
    """Yields the positions of each row's candidates; a side that all of them lack may be one string."""
    names = ("tgt_text", "tgt_img_path")
    lengths = [_lengths(batch, name) for name in names if _listed(batch, name)]
    if not lengths or any((others != lengths[0]).any() for others in lengths):
        raise ValueError("a row has not as many texts as image paths of candidates")
    counts = lengths[0]
    instructions, values = _codes(batch, "tgt_inst")
    texts, paths = (
        codes if _listed(batch, name) else (np.repeat(codes[0], counts), codes[1])
        for name, codes in ((name, _codes(batch, name)) for name in names)
    )
    found = _items(position, texts, paths, (np.repeat(instructions, counts), values))
    yield from np.split(found, np.cumsum(counts)[:-1])


def _labels(batch: pa.RecordBatch) -> list[list[int]]:
    """Returns the relevant candidates of each row; where the file says nothing, candidate 0, as in MMEB."""
    if "label" not in batch.schema.names:
        return [[0]] * batch.num_rows
    return [[0] if labels is None else labels for labels in batch.column("label").to_pylist()]


Codes = tuple[NDArray[np.int64], list[str]]
"""A column of strings: `(n,)` positions in the list of its different values."""


def _codes(batch: pa.RecordBatch, name: str) -> Codes:
    if name not in batch.schema.names and not name.endswith("text"):
        return np.zeros(batch.num_rows, np.int64), [""]
    column = batch.column(name)
    if pa.types.is_list(column.type):
        column = column.flatten()
    encoded = pc.dictionary_encode(column, null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64), [value or "" for value in encoded.dictionary.to_pylist()]


def _listed(batch: pa.RecordBatch, name: str) -> bool:
    return name in batch.schema.names and pa.types.is_list(batch.column(name).type)


def _lengths(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    lengths = pc.list_value_length(batch.column(name)).fill_null(0)
    return np.asarray(lengths, np.int64)


def _items(position: Callable[[str, str, str], int], texts: Codes, paths: Codes, instructions: Codes) -> Positions:
    """Returns the position of each item `(n,)`; only the different ones of a batch are looked at one by one."""
    sizes = tuple(len(values) for _, values in (texts, paths, instructions))
    combined = np.ravel_multi_index((texts[0], paths[0], instructions[0]), sizes)
    encoded = pa.array(combined).dictionary_encode()
    different = [
        position(texts[1][text], paths[1][path], instructions[1][instruction])
        for text, path, instruction in np.transpose(np.unravel_index(encoded.dictionary.to_numpy(), sizes))
    ]
    found: Positions = np.array(different, np.int32)[np.asarray(encoded.indices)]
    return found


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
