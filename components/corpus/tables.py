"""Rows of CSV, JSONL and Parquet files, as they are."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.config import FileSettings
from components.corpus.pairs import ImageText
from components.corpus.quarantine import Rejected
from components.errors import DataInvalid, UsageError

ROWS_PER_BATCH = 256


def file_pairs(file: Path, name: str, columns: dict[str, str]) -> Iterator[ImageText]:
    image, text = columns.get("image", "image"), columns.get("text", "text")
    for number, raw in enumerate(read_rows(file)):
        if number == 0 and not isinstance(raw, bytes):
            require_columns(name, (image, text), raw)
        try:
            row = record(raw)
        except Rejected as rejected:
            yield ImageText(name, number, rejected, rejected)
        else:
            yield ImageText(name, number, row.get(image), row.get(text))


def require_columns(name: str, wanted: tuple[str, ...], present: Any) -> None:
    """Raises `UsageError` if a wanted column is not present."""
    if missing := [column for column in wanted if column not in present]:
        raise UsageError(
            f"{name} has no column {missing[0]!r}",
            f"It has {', '.join(map(str, present))}; set corpus.columns.image and corpus.columns.text to two of them.",
        )


def located(config: FileSettings) -> Path:
    """Returns the path that `corpus.location` names; raises `UsageError` if nothing is there."""
    if not (path := Path(config.location)).exists():
        raise UsageError(f"corpus.location: {path} does not exist", "Correct the path.")
    return path


def read_rows(file: Path) -> Iterator[dict[str, Any] | bytes]:
    """Yields the rows of a Parquet or CSV file, or the lines of a JSONL file, for `record` to parse.

    Raises `DataInvalid` if the file cannot be read on.
    """
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(ROWS_PER_BATCH):
                    yield from batch.to_pylist()
        elif file.suffix == ".jsonl":
            with file.open("rb") as lines:
                yield from lines
        else:
            with file.open(encoding="utf-8-sig", newline="") as text:
                yield from csv.DictReader(text)
    except (pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file} cannot be read: {error}", "Correct the file, or leave it out.") from error


def record(row: dict[str, Any] | bytes) -> dict[str, Any]:
    """Returns a row as a dict; raises `Rejected` if it is a line that holds no JSON object."""
    if isinstance(row, dict):
        return row
    try:
        parsed = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise Rejected("wrong type", "the line is not JSON") from error
    if not isinstance(parsed, dict):
        raise Rejected("wrong type", "the line is not a JSON object")
    return parsed
