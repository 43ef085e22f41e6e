"""Writes what was recorded to Parquet files in a thread of its own, so that no request ever waits for a disk.

FOLDER/2026-11-30/FIRST-LAST-PROCESS-NUMBER.parquet     a file every few seconds, whole or not there at all
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from components.files import atomic_file
from components.traffic.schema import Request, request_table

DAY = "%Y-%m-%d"
POLL = 0.05
"""Seconds between two looks at whether a file is due."""


@dataclass(frozen=True)
class Written:
    """How many rows were written, and how many were lost because the queue was full, and because a file could not be
    written; `fault` says why the last one could not."""

    rows: int = 0
    files: int = 0
    dropped_queue: int = 0
    dropped_disk: int = 0
    fault: str | None = None


class TrafficWriter:
    """Takes rows from any thread and writes them every `seconds`, or as soon as there are `rows_a_file`.

    `share` of the rows is kept, drawn at random. A full queue and a full disk lose rows, which `written` counts, and
    never raise. A crash loses what the last `seconds` brought. `table` makes a table of rows: `request_table`, or
    `feedback_table` for a folder of feedback. With `raw` the raw inputs are kept as `redact` returns them.
    """

    def __init__(
        self,
        folder: Path,
        table: Callable[[Sequence[Any]], pa.Table] = request_table,
        share: float = 1.0,
        seconds: float = 5.0,
        rows_a_file: int = 10_000,
        queued: int = 20_000,
        raw: bool = False,
        redact: Callable[[Request], Request] = lambda request: request,
    ) -> None:
        self.folder, self.table, self.share, self.seconds, self.rows_a_file = folder, table, share, seconds, rows_a_file
        self.raw, self.redact = raw, redact
        self.written = Written()
        self._dropped_queue = 0
        self._random = Random()
        self.queued = queued
        self._rows: deque[Any] = deque()  # takes and gives rows without a lock
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    def record(self, row: Any) -> bool:
        """Returns whether the row was taken; never waits."""
        if self.share < 1 and self._random.random() >= self.share:
            return False
        if len(self._rows) >= self.queued:
            self._dropped_queue += 1
            return False
        self._rows.append(row)
        return True

    def close(self) -> Written:
        """Writes what is still queued, and returns what was written and lost."""
        self._closing.set()
        self._thread.join()
        return self.counts()

    def counts(self) -> Written:
        """Returns what was written and lost until now."""
        return replace(self.written, dropped_queue=self._dropped_queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        began = time.monotonic()
        while not (closing := self._closing.wait(POLL)) or self._rows:
            if not (closing or len(self._rows) >= self.rows_a_file or time.monotonic() - began >= self.seconds):
                continue
            if rows := [self._rows.popleft() for _ in range(min(len(self._rows), self.rows_a_file))]:
                self._write(rows)
            began = time.monotonic()

    def _write(self, rows: list[Any]) -> None:
        before = self.written
        try:
            path = _path(self.folder, rows, before.files)
            with atomic_file(path) as partial:
                table = self.table([self._kept(row) for row in rows])
                words = [name for name in table.column_names if name != "embedding"]  # vectors do not get smaller
                compression = {name: "zstd" if name in words else "none" for name in _leaves(table)}
                pq.write_table(table, partial, compression=compression, use_dictionary=words)
        except Exception as fault:  # the request that a row is of was answered: a row lost is counted, nothing else
            self.written = replace(
                before, dropped_disk=before.dropped_disk + len(rows), fault=f"{type(fault).__name__}: {fault}"
            )
        else:
            self.written = replace(before, rows=before.rows + len(rows), files=before.files + 1)

    def _kept(self, row: Any) -> Any:
        if not isinstance(row, Request) or (row.raw_text is None and row.raw_image is None):
            return row
        return self.redact(row) if self.raw else replace(row, raw_text=None, raw_image=None)


def period(file: Path) -> tuple[float, float] | None:
    """Returns the times of the first and the last row that the name of a file tells, None for a file of others."""
    parts = file.stem.split("-")
    try:
        return (float(parts[0]), float(parts[1])) if len(parts) == 4 else None
    except ValueError:
        return None


def forget(folder: Path, before: float) -> int:
    """Removes the files of a writer whose rows are all older than `before`, and returns how many."""
    old = [file for file in folder.rglob("*.parquet") if (times := period(file)) and times[1] < before]
    for file in old:
        file.unlink()
    for day in {file.parent for file in old}:
        if day != folder and not any(day.iterdir()):
            day.rmdir()
    return len(old)


def _leaves(table: pa.Table) -> list[str]:
    """Returns the names of the columns as Parquet stores them, the numbers of a vector below their list."""
    return ["embedding.list.element" if name == "embedding" else name for name in table.column_names]


def _path(folder: Path, rows: Sequence[Any], number: int) -> Path:
    times = [row.time for row in rows]
    day = datetime.fromtimestamp(min(times), UTC).strftime(DAY)
    return folder / day / f"{min(times):.6f}-{max(times):.6f}-{os.getpid()}_{time.monotonic_ns()}-{number}.parquet"
