"""The files of a data set in MMEB's columns: their schemas, and streaming readers and writers for them.

`train/TASK.parquet` holds pairs, `dev/TASK.parquet` and `eval/TASK.parquet` hold queries, `images/` the pictures;
`multilingual/LANGUAGE.parquet`, where a source has it, holds queries that are the same in every language. Image paths
are relative to `images/`, and an empty string means "none".
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.item import Item, Pair, Query
from components.errors import UsedWrongly

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
ROWS_PER_GROUP = {TRAIN_SCHEMA: 4096, EVAL_SCHEMA: 64}
IMAGE_TOKEN = "<|image_1|>"
REMEMBERED_ITEMS = 16_384


def task_names(data: Path, split: Split) -> list[str]:
    """Returns the names of the tasks that `data` holds rows for, sorted."""
    return sorted(file.stem for file in (data / split).glob("[!.]*.parquet"))


def read_pairs(data: Path, task: str | None = None) -> Iterator[Pair]:
    """Yields the training pairs of one task, or of all tasks in the order of their names.

    Raises `UsedWrongly` if `data` has no such task.
    """
    item = _items(data)
    for name in task_names(data, "train") if task is None else [task]:
        for row in _rows(_existing(data, "train", name), ROWS_PER_GROUP[TRAIN_SCHEMA]):
            instruction = row.get("pos_inst")
            yield Pair(
                query=item(row.get("qry_inst"), row["qry"], row["qry_image_path"]),
                positive=item(instruction, row["pos_text"], row["pos_image_path"]),
                negatives=tuple(
                    item(instruction, text, path)
                    for text, path in negatives(row.get("neg_text"), row.get("neg_image_path"))
                ),
            )


def read_queries(data: Path, split: Literal["dev", "eval", "multilingual"], task: str) -> Iterator[Query]:
    """Yields the queries of one task, each with its candidates in the order of the file.

    Rows without `label` follow MMEB's convention: candidate 0 is the truth. Items that repeat are shared, so that
    a thousand queries with the same thousand candidates cost a thousand items. Raises `UsedWrongly` if `data` has
    no such task.
    """
    item = _items(data)
    for row in _rows(_existing(data, split, task), ROWS_PER_GROUP[EVAL_SCHEMA]):
        instruction = row.get("tgt_inst")
        labels = row.get("label")
        yield Query(
            item=item(row.get("qry_inst"), row["qry_text"], row["qry_img_path"]),
            candidates=tuple(
                item(instruction, text, path) for text, path in candidates(row["tgt_text"], row["tgt_img_path"])
            ),
            relevant=dict.fromkeys([0] if labels is None else labels, 1.0),
        )


def bare(text: str | None) -> str | None:
    """Returns the text without MMEB's image token, or None where nothing is left."""
    return (text.replace(IMAGE_TOKEN, "").strip() if text and IMAGE_TOKEN in text else text) or None


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with _parquet(partial, columns) as writer:
        writer.write_table(table.select(columns.names).cast(columns), row_group_size=ROWS_PER_GROUP[schema])
    partial.replace(path)
    return int(table.num_rows)


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _existing(data: Path, split: Split, task: str) -> Path:
    file = data / split / f"{task}.parquet"
    if not file.is_file():
        known = ", ".join(task_names(data, split)) or "nothing"
        raise UsedWrongly(f"{file}: there is no such task", f"{data / split} holds {known}; run `embedline ingest`.")
    return file


def _rows(file: Path, batch_size: int) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size):
            yield from batch.to_pylist()


def _items(data: Path) -> Callable[[str | None, str | None, str | None], Item]:
    """Returns the function that makes an item of an instruction, a text and an image path, and shares repeated ones."""
    images = data / "images"

    @lru_cache(REMEMBERED_ITEMS)
    def item(instruction: str | None, text: str | None, path: str | None) -> Item:
        return Item(bare(text), images / path if path else None, instruction=bare(instruction))

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
