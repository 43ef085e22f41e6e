"""The files of a data set in MMEB's columns: their schemas, and streaming readers and writers for them.

`train/TASK.parquet` holds pairs, `dev/TASK.parquet` and `eval/TASK.parquet` hold queries, `images/` the pictures;
`multilingual/LANGUAGE.parquet`, where a source has it, holds queries that are the same in every language. Image paths
are relative to `images/` and stay inside it; an empty string or a null means "none".

The text of an item is what `bare` leaves of its column, for every reader: without MMEB's image token and without white
space around it. To tell repeated rows, validation also counts white space inside a text as one space.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.images import inside
from components.corpus.item import Item, Pair, Query
from components.corpus.quarantine import Rejected
from components.errors import DataInvalid, UsageError
from components.files import atomic_file

Split = Literal["train", "dev", "eval", "multilingual"]

TRAIN_SCHEMA = pa.schema(
    {
        "qry_inst": pa.string(),
        "qry": pa.string(),
        "qry_image_path": pa.string(),
        "pos_inst": pa.string(),
        "pos_text": pa.string(),
        "pos_image_path": pa.string(),
        "neg_text": pa.string(),
        "neg_image_path": pa.string(),
    }
)
EVAL_SCHEMA = pa.schema(
    {
        "qry_inst": pa.string(),
        "qry_text": pa.string(),
        "qry_img_path": pa.string(),
        "tgt_inst": pa.string(),
        "tgt_text": pa.list_(pa.string()),
        "tgt_img_path": pa.list_(pa.string()),
        "label": pa.list_(pa.int32()),
    }
)
OPTIONAL_COLUMNS = frozenset({"qry_inst", "pos_inst", "tgt_inst", "label"})
REQUIRED_COLUMNS = {
    TRAIN_SCHEMA: ("qry", "qry_image_path", "pos_text", "pos_image_path"),
    EVAL_SCHEMA: ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path"),
}
"""The columns without which rows would be read as something else; MMEB publishes all of them, empty or not."""
ROWS_PER_GROUP = {TRAIN_SCHEMA: 4096, EVAL_SCHEMA: 64}
IMAGE_TOKEN = "<|image_1|>"
REMEMBERED_ITEMS = 16_384
INGEST_AGAIN = "Build the data set again with `embedline ingest`."


def task_names(data: Path, split: Split) -> list[str]:
    """Returns the names of the tasks that `data` holds rows for, sorted."""
    return sorted(file.stem for file in (data / split).glob("[!.]*.parquet"))


def read_pairs(data: Path, task: str | None = None) -> Iterator[Pair]:
    """Yields the training pairs of one task, or of all tasks in the order of their names.

    Raises `UsageError` if `data` has no such task, `DataInvalid` naming file and row if one is broken or names an
    image outside `images/`.
    """
    item = _items(data)
    for name in task_names(data, "train") if task is None else [task]:
        for place, row in _rows(_existing(data, "train", name), TRAIN_SCHEMA):
            with _understood(place):
                instruction = row.get("pos_inst")
                pair = Pair(
                    query=item(row.get("qry_inst"), row["qry"], row["qry_image_path"]),
                    positive=item(instruction, row["pos_text"], row["pos_image_path"]),
                    negatives=tuple(
                        item(instruction, text, path)
                        for text, path in negatives(row.get("neg_text"), row.get("neg_image_path"))
                    ),
                )
            yield pair


def read_queries(data: Path, split: Literal["dev", "eval", "multilingual"], task: str) -> Iterator[Query]:
    """Yields the queries of one task, each with its candidates in the order of the file.

    Rows without `label` follow MMEB's convention: candidate 0 is the truth. Items that repeat are shared, so that
    a thousand queries with the same thousand candidates cost a thousand items. Raises `UsageError` if `data` has
    no such task, `DataInvalid` naming file and row if one is broken or names an image outside `images/`.
    """
    item = _items(data)
    for place, row in _rows(_existing(data, split, task), EVAL_SCHEMA):
        with _understood(place):
            instruction = row.get("tgt_inst")
            labels = [0] if row.get("label") is None else row["label"]
            query = Query(
                item=item(row.get("qry_inst"), row["qry_text"], row["qry_img_path"]),
                candidates=tuple(
                    item(instruction, text, path) for text, path in candidates(row["tgt_text"], row["tgt_img_path"])
                ),
                relevant=dict.fromkeys(labels, 1.0),
            )
            if wrong := [label for label in labels if label not in range(len(query.candidates))]:
                raise ValueError(f"label {wrong[0]} of {len(query.candidates)} candidates")
        yield query


def bare(text: str | None) -> str | None:
    """Returns the text without MMEB's image token and without white space around it, None where nothing is left."""
    return (text or "").replace(IMAGE_TOKEN, "").strip() or None


def fits(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Returns whether a column of a type can be read as the one of a schema: lists, strings and integers of any size,
    and strings written as a dictionary."""
    if pa.types.is_list(wanted):
        return type(kind) in (pa.ListType, pa.LargeListType) and fits(kind.value_type, wanted.value_type)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(wanted):
        return kind in (pa.string(), pa.large_string())
    return bool(pa.types.is_integer(kind))


def batches(opened: pq.ParquetFile, columns: Sequence[str], rows_at_once: int) -> Iterator[pa.RecordBatch]:
    """Yields the columns of an open file in memory that does not grow with the file.

    Raises `OSError` that names the row group if one is broken.
    """
    for group in range(opened.num_row_groups):  # pyarrow reads ahead through all groups that it is asked for
        try:
            for batch in opened.iter_batches(rows_at_once, [group], list(columns)):
                batch.validate(full=True)
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"row group {group}: {error}") from error


def candidates(texts: Sequence[str] | str, paths: Sequence[str] | str) -> list[tuple[str, str]]:
    """Returns `(text, image path)` of each candidate; MMEB stores a side that all of them lack as one string."""
    if isinstance(texts, str):
        texts = [texts] * len(paths)
    if isinstance(paths, str):
        paths = [paths] * len(texts)
    return list(zip(texts, paths, strict=True))


def negatives(text: str | None, path: str | None) -> list[tuple[str, str]]:
    """Returns `(text, image path)` of each negative: none, one, or as many as the lists written out in the columns."""
    texts, paths = _written_list(text), _written_list(path)
    count = max(len(texts), len(paths))
    return [pair for pair in zip(texts or [""] * count, paths or [""] * count, strict=True) if any(pair)]


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


def _items(data: Path) -> Callable[[str | None, str | None, str | None], Item]:
    """Returns the function that makes an item of an instruction, a text and an image path, and shares repeated ones."""
    images = data / "images"

    @lru_cache(REMEMBERED_ITEMS)
    def item(instruction: str | None, text: str | None, path: str | None) -> Item:
        return Item(bare(text), inside(images, path) if path else None, instruction=bare(instruction))

    return item


def _written_list(value: str | None) -> list[str]:
    """Returns the strings of a list written out as text (mmE5 stores negatives so), or the value itself."""
    if not value:
        return []
    if value.startswith("[") and value.endswith("]"):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [value]
        if isinstance(parsed, list) and all(isinstance(text, str) for text in parsed):
            return parsed
    return [value]
