"""The rows of published tables, each with its place in words, and `DataInvalid` for every one that is broken."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus import Query
from components.corpus.quarantine import Rejected
from components.corpus.row_batches import batches
from components.errors import DataInvalid
from components.evaluation.benchmark import Task

Row = dict[str, Any]
Loader = Callable[[str, Task, Path], Iterator[Query]]
"""Takes the name of a set, its task and the mirror."""
AGAIN = "Download it again."


def rows(files: Sequence[Path], columns: Sequence[str], rows_at_once: int = 256) -> Iterator[tuple[str, Row]]:
    """Yields the place of each row, as 'FILE: row 3', and its columns. Raises `DataInvalid` where a file is broken."""
    for file in files:
        read = _parquet_rows if file.suffix == ".parquet" else _json_rows
        for number, row in enumerate(read(file, columns, rows_at_once)):
            yield f"{file}: row {number}", row


@contextmanager
def parquet(file: Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file. Raises `DataInvalid` if it is broken, also later on, or has not all the columns."""
    try:
        with pq.ParquetFile(file) as opened:
            _require(columns, opened.schema_arrow.names, str(file))
            yield opened
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file} cannot be read, it is broken or cut short: {error}", AGAIN) from error


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Turns what a row of unexpected content raises inside into `DataInvalid`."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, Rejected, TypeError, ValueError) as error:
        raise DataInvalid(f"{place}: is not as published: {error!r}", AGAIN) from error


def checked(loader: Loader) -> Loader:
    """Returns a loader that compares the numbers of queries and candidates with the task's when all are passed on."""

    @functools.wraps(loader)
    def load(name: str, task: Task, mirror: Path) -> Iterator[Query]:
        queries = candidates = 0
        for query in loader(name, task, mirror):
            queries += 1
            candidates = max(candidates, len(query.candidates))
            yield query
        require_count(f"{name}: queries", queries, task.queries)
        if task.candidates is not None:
            require_count(f"{name}: candidates of a query", candidates, task.candidates)

    return load


def require_count(what: str, found: int, published: int) -> None:
    """Raises `DataInvalid` if a number is not the published one."""
    if found != published:
        raise DataInvalid(f"{what}: {found} in the mirror, {published} were published", AGAIN)


def _parquet_rows(file: Path, columns: Sequence[str], rows_at_once: int) -> Iterator[Row]:
    with parquet(file, columns) as opened:
        for batch in batches(opened, columns, rows_at_once):
            yield from batch.to_pylist()


def _json_rows(file: Path, columns: Sequence[str], _: int) -> Iterator[Row]:
    """Yields the objects of a file with one a line (.jsonl), or with one list of them (.json)."""
    number = -1
    try:
        with file.open(encoding="utf-8") as lines:
            for number, row in enumerate(json.load(lines) if file.suffix == ".json" else map(json.loads, lines)):
                _require(columns, row, f"{file}: row {number}")
                yield row
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise DataInvalid(
            f"{file}: row {number + 1}: cannot be read, it is broken or cut short: {error}", AGAIN
        ) from error


def _require(columns: Sequence[str], present: Any, place: str) -> None:
    if missing := [column for column in columns if column not in present]:
        raise DataInvalid(f"{place}: there is no column {missing[0]!r}, only {', '.join(present)}", AGAIN)
