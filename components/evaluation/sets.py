"""The evaluation sets of a data set as positions in one list of different items, so that each item is encoded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.corpus import EvaluationTask, Item, Manifest, task_names
from components.corpus.layout import EVAL_SCHEMA, ROWS_PER_GROUP, bare
from components.errors import DataInvalid
from components.evaluation.aggregate import require_complete
from components.evaluation.scoring import Positions

MEND = "Build the data set again with `embedline ingest`."
Key = tuple[str, str, str]
"""What tells items apart: text, image path, instruction; empty where there is none."""


@dataclass(frozen=True)
class Pool:
    """Queries that share their candidates: `rows (n,)` of the set, `candidates (m,)` positions of items, sorted,
    `relevant (r, 2)` pairs of a place in `rows` and a place in `candidates`."""

    rows: Positions
    candidates: Positions
    relevant: Positions


@dataclass(frozen=True)
class EvaluationSet:
    """One set: `queries (rows,)` positions of items, and the pools that its rows fall into."""

    name: str
    task: EvaluationTask
    queries: Positions
    pools: tuple[Pool, ...]


@dataclass(frozen=True)
class Suite:
    """All evaluation sets of a data set over one list of different items."""

    manifest: Manifest
    sets: tuple[EvaluationSet, ...]
    items: tuple[Item, ...]
    items_digest: str
    prompts: str
    """SHA-256 over the instructions of every set, of its queries and of its candidates."""

    def place(self, position: int) -> str:
        """Returns the first set and row that need the item at `position`, in words."""
        for questions in self.sets:
            if len(rows := np.flatnonzero(questions.queries == position)):
                return f"{questions.name}: query of row {rows[0]}"
            if asked := [pool.rows.min() for pool in questions.pools if position in pool.candidates]:
                return f"{questions.name}: a candidate of row {min(asked)}, {self.items[position]}"
        raise IndexError(f"no set needs item {position}")


def read_suite(data: Path) -> Suite:
    """Returns the sets that the manifest in `data` names.

    Raises `EmbedlineError` if a set is missing or extra, `DataInvalid` if a file is not what its manifest says.
    """
    manifest = Manifest.read(data)
    tasks = manifest.tasks.eval
    require_complete(task_names(data, "eval"), tasks)
    positions: dict[Key, int] = {}
    sets = tuple(_read_set(data / "eval" / f"{name}.parquet", tasks[name], positions) for name in sorted(tasks))
    keys = list(positions)
    items = tuple(
        Item(text or None, data / "images" / path if path else None, instruction=instruction or None)
        for text, path, instruction in keys
    )
    return Suite(manifest, sets, items, _digest(keys), _digest(_instructions(sets, keys)))


def _read_set(file: Path, task: EvaluationTask, positions: dict[Key, int]) -> EvaluationSet:
    """Returns the set in `file`; adds to `positions` the items that it is the first to need."""
    queries: list[Positions] = []
    pools = _Pools(file)
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(ROWS_PER_GROUP[EVAL_SCHEMA]):
                text, path, instruction = (_codes(batch, name) for name in ("qry_text", "qry_img_path", "qry_inst"))
                queries.append(_items(positions, text, path, instruction))
                for candidates, labels in zip(_candidates(batch, positions), _labels(batch), strict=True):
                    pools.add(candidates, labels)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise DataInvalid(f"{file}: is no evaluation set: {error}", MEND) from error
    if (pools.row_count, pools.largest) != (task.rows, task.candidates):
        raise DataInvalid(
            f"{file}: {pools.row_count} rows with up to {pools.largest} candidates; "
            f"the manifest says {task.rows} with up to {task.candidates}",
            MEND,
        )
    return EvaluationSet(file.stem, task, np.concatenate(queries), pools.frozen())


@dataclass
class _Pools:
    """Sorts rows into pools. Lists of the same candidates are one pool, in whatever order the file holds them."""

    file: Path
    row_count: int = 0
    largest: int = 0
    pools: dict[bytes, tuple[Positions, list[int], list[tuple[int, int]]]] = field(default_factory=dict)
    seen: dict[bytes, tuple[bytes, NDArray[np.intp]]] = field(default_factory=dict)

    def add(self, candidates: Positions, labels: list[int]) -> None:
        wrong = [label for label in labels if not 0 <= label < len(candidates)]
        if wrong or not labels:
            defect = f"label {wrong[0]} of {len(candidates)} candidates" if wrong else "no candidate is relevant"
            raise DataInvalid(f"{self.file}: row {self.row_count}: {defect}", MEND)
        written = candidates.tobytes()
        if written not in self.seen:
            order = np.argsort(candidates, kind="stable")
            in_order = candidates[order]
            self.pools.setdefault(in_order.tobytes(), (in_order, [], []))
            self.seen[written] = in_order.tobytes(), np.argsort(order)
        pool, places = self.seen[written]
        _, rows, relevant = self.pools[pool]
        relevant += [(len(rows), int(places[label])) for label in sorted(set(labels))]
        rows.append(self.row_count)
        self.row_count += 1
        self.largest = max(self.largest, len(candidates))

    def frozen(self) -> tuple[Pool, ...]:
        return tuple(
            Pool(np.array(rows, np.int32), candidates, np.array(relevant, np.int32))
            for candidates, rows, relevant in self.pools.values()
        )


def _candidates(batch: pa.RecordBatch, positions: dict[Key, int]) -> Iterator[Positions]:
    """Yields the positions of each row's candidates."""
    counts, path_counts = (_lengths(batch, name) for name in ("tgt_text", "tgt_img_path"))
    if (counts != path_counts).any():
        raise ValueError("a row has not as many texts as image paths of candidates")
    instructions, values = _codes(batch, "tgt_inst")
    texts, paths = _codes(batch, "tgt_text"), _codes(batch, "tgt_img_path")
    found = _items(positions, texts, paths, (np.repeat(instructions, counts), values))
    yield from np.split(found, np.cumsum(counts)[:-1])


def _labels(batch: pa.RecordBatch) -> list[list[int]]:
    """Returns the relevant candidates of each row; where the file says nothing, candidate 0, as in MMEB."""
    if "label" not in batch.schema.names:
        return [[0]] * batch.num_rows
    return [[0] if labels is None else labels for labels in batch.column("label").to_pylist()]


Codes = tuple[NDArray[np.int64], list[str]]
"""A column of strings: `(n,)` positions in the list of its different values."""


def _codes(batch: pa.RecordBatch, name: str) -> Codes:
    if name.endswith("_inst") and name not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64), [""]
    column = batch.column(name)
    if pa.types.is_list(column.type):
        column = column.flatten()
    encoded = pc.dictionary_encode(column, null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64), [value or "" for value in encoded.dictionary.to_pylist()]


def _lengths(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    lengths = pc.list_value_length(batch.column(name)).fill_null(0)
    return np.asarray(lengths, np.int64)


def _items(positions: dict[Key, int], texts: Codes, paths: Codes, instructions: Codes) -> Positions:
    """Returns the position of each item `(n,)`; only the different ones of a batch are looked at one by one."""
    sizes = tuple(len(values) for _, values in (texts, paths, instructions))
    combined = np.ravel_multi_index((texts[0], paths[0], instructions[0]), sizes)
    encoded = pa.array(combined).dictionary_encode()
    different = []
    for text, path, instruction in np.transpose(np.unravel_index(encoded.dictionary.to_numpy(), sizes)):
        key = bare(texts[1][text]) or "", paths[1][path], bare(instructions[1][instruction]) or ""
        if not (key[0] or key[1]):
            raise ValueError("an item has neither text nor image")
        different.append(positions.setdefault(key, len(positions)))
    found: Positions = np.array(different, np.int32)[np.asarray(encoded.indices)]
    return found


def _instructions(sets: tuple[EvaluationSet, ...], keys: list[Key]) -> dict[str, list[list[str]]]:
    """Returns, by set, the different instructions of its queries and of its candidates."""
    return {
        questions.name: [
            sorted({keys[position][2] for position in np.unique(side)})
            for side in (questions.queries, np.concatenate([pool.candidates for pool in questions.pools]))
        ]
        for questions in sets
    }


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
