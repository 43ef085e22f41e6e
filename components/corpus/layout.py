"""The files of a data set in MMEB's columns (`components/corpus/rows.py`): streaming readers and writers for them.

`train/TASK.parquet` holds pairs, `dev/TASK.parquet` and `eval/TASK.parquet` hold queries, `images/` the images;
`multilingual/LANGUAGE.parquet`, where a source has it, holds queries that are the same in every language. Image paths
are relative to `images/` and stay inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.item import Item, Pair, Query
from components.corpus.quarantine import Rejected
from components.corpus.row_batches import batches
from components.corpus.rows import (
    EVAL_SCHEMA,
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    TRAIN_SCHEMA,
    as_filed,
    candidates,
    negatives,
    plain,
    relevant,
)
from components.errors import DataInvalid, UsageError
from components.files import atomic_file

Split = Literal["train", "dev", "eval", "multilingual"]

ROWS_PER_GROUP = {TRAIN_SCHEMA: 4096, EVAL_SCHEMA: 64}
REMEMBERED_ITEMS = 16_384
INGEST_AGAIN = "Build the data set again with `embedline ingest`."


def task_names(data: Path, split: Split) -> list[str]:
    """Returns the names of the tasks that `data` holds rows for, sorted."""
    return sorted(file.stem for file in (data / split).glob("[!.]*.parquet"))


def read_pairs(data: Path, task: str | None = None) -> Iterator[Pair]:
    """Yields the training pairs of one task, or of all tasks in the order of their names.

    Raises `UsageError` if `data` has no such task, `DataInvalid` naming file and row if one is broken, has a side with
    neither text nor image, or names an image outside `images/`.
    """
    item = _items(data)
    for name in task_names(data, "train") if task is None else [task]:
        for place, row in _rows(_existing(data, "train", name), TRAIN_SCHEMA):
            with _understood(place):
                instruction = row.get("pos_inst")
                pair = Pair(
                    query=item("query", row.get("qry_inst"), row["qry"], row["qry_image_path"]),
                    positive=item("positive", instruction, row["pos_text"], row["pos_image_path"]),
                    negatives=tuple(
                        item("negative", instruction, text, path)
                        for text, path in negatives(row.get("neg_text"), row.get("neg_image_path"))
                    ),
                )
            yield pair


def read_queries(data: Path, split: Literal["dev", "eval", "multilingual"], task: str) -> Iterator[Query]:
    """Yields the queries of one task, each with its candidates in the order of the file.

    Items that repeat are shared, so that
    a thousand queries with the same thousand candidates cost a thousand items. Raises as `read_pairs` does, also for
    a row without a relevant candidate.
    """
    item = _items(data)
    for place, row in _rows(_existing(data, split, task), EVAL_SCHEMA):
        with _understood(place):
            instruction = row.get("tgt_inst")
            labels = relevant(row.get("label"))
            query = Query(
                item=item("query", row.get("qry_inst"), row["qry_text"], row["qry_img_path"]),
                candidates=tuple(
                    item("candidate", instruction, text, path)
                    for text, path in candidates(row["tgt_text"], row["tgt_img_path"])
                ),
                relevant=dict.fromkeys(labels, 1.0),
            )
            if wrong := [label for label in labels if label not in range(len(query.candidates))]:
                raise ValueError(f"label {wrong[0]} of {len(query.candidates)} candidates")
            if not labels:
                raise ValueError("no candidate is relevant")
        yield query


class RowWriter:
    """Writes rows to a parquet file, one row group after the other; the file gets its name when it is complete.

    A column that a row lacks is null there.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._buffer: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) >= ROWS_PER_GROUP[self.schema]:
            self._flush()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Completes the file if it has rows; after an error leaves nothing under its name."""
        if error is None and self._buffer:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            if error is None:
                self._partial.replace(self.path)
            else:
                self._partial.unlink()

    def _flush(self) -> None:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _parquet(self._partial, self.schema)
        self._writer.write_table(pa.Table.from_pylist(self._buffer, self.schema))
        self._buffer.clear()


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Writes rows of `TRAIN_SCHEMA` or `EVAL_SCHEMA` and returns how many; without rows writes no file."""
    with RowWriter(path, schema) as writer:
        for row in rows:
            writer.add(row)
    return writer.rows


def write_table(path: Path, schema: pa.Schema, table: pa.Table) -> int:
    """Writes a whole table of `TRAIN_SCHEMA` or `EVAL_SCHEMA`, optional columns as it has them; returns its rows."""
    absent = OPTIONAL_COLUMNS.difference(table.column_names)
    columns = pa.schema([field for field in schema if field.name not in absent])
    with atomic_file(path) as partial, _parquet(partial, columns) as writer:
        writer.write_table(table.select(columns.names).cast(columns), row_group_size=ROWS_PER_GROUP[schema])
    return int(table.num_rows)


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _existing(data: Path, split: Split, task: str) -> Path:
    file = data / split / f"{task}.parquet"
    if not file.is_file():
        known = ", ".join(task_names(data, split)) or "nothing"
        raise UsageError(f"{file}: there is no such task", f"{data / split} holds {known}; run `embedline ingest`.")
    return file


def _rows(file: Path, schema: pa.Schema) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the place of each row, as 'FILE: row 3', and its columns."""
    number = 0
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if missing := [name for name in REQUIRED_COLUMNS[schema] if name not in names]:
                raise DataInvalid(f"{file}: there is no column {missing[0]!r}, only {', '.join(names)}", INGEST_AGAIN)
            for batch in batches(parquet, names, ROWS_PER_GROUP[schema]):
                for row in batch.to_pylist():
                    yield f"{file}: row {number}", row
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file}: row {number}: cannot be read, the file is broken: {error}", INGEST_AGAIN) from error


@contextmanager
def _understood(place: str) -> Iterator[None]:
    """Turns what a row of unexpected content raises inside into `DataInvalid`."""
    try:
        yield
    except (AttributeError, Rejected, TypeError, ValueError) as error:
        raise DataInvalid(f"{place}: cannot be used: {error}", INGEST_AGAIN) from error


def _items(data: Path) -> Callable[[str, str | None, str | None, str | None], Item]:
    """Returns the function that makes the item of a side's cells, and shares repeated ones."""
    images = data / "images"

    @lru_cache(REMEMBERED_ITEMS)
    def item(side: str, instruction: str | None, text: str | None, path: str | None) -> Item:
        found = plain(as_filed(images, instruction, text, path))
        if found.is_empty:
            raise ValueError(f"the {side} has neither text nor image")
        return found

    return item
