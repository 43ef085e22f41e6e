"""Rows that cannot be used: each is written to `quarantine.jsonl` with its reason, counted, and left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal

from components.errors import DataInvalid

QUARANTINE = "quarantine.jsonl"
Reason = Literal[
    "missing image",
    "broken image",
    "image too large",
    "no content",
    "no candidates",
    "wrong type",
    "wrong label",
    "unsafe path",
]


class Rejected(Exception):
    """One row, or one file of an archive, that cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Quarantine:
    """Counts the rows that are read, and writes those that are rejected to a file.

    >>> with Quarantine(Path("quarantine.jsonl")) as quarantine:
    ...     with quarantine.row("train.csv", 1):
    ...         raise Rejected("missing image", "cat.png")
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = 0
        self.reasons: Counter[Reason] = Counter()
        self._stream = file.open("w", encoding="utf-8")

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    @contextmanager
    def row(self, file: str, number: int) -> Iterator[None]:
        """Counts one row; a `Rejected` raised inside ends there, in the file."""
        self.rows += 1
        try:
            yield
        except Rejected as rejected:
            self.reasons[rejected.reason] += 1
            line = {"file": file, "row": number, "reason": rejected.reason, "detail": rejected.detail}
            self._stream.write(json.dumps(line) + "\n")

    def check(self, limit: float) -> None:
        """Raises `DataInvalid` if the rejected share of the rows is above `limit`."""
        if self.rejected > limit * self.rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
            raise DataInvalid(
                f"{self.rejected} of {self.rows} rows are quarantined ({reasons}); at most {limit:.1%} may be",
                f"{self.file} names each row with its reason; correct the source, or raise corpus.quarantine_limit.",
            )
