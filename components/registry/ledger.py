"""The ledger: one line for every change of role, each carrying the hash of the line before it.

A change is two lines, `pending` before the first alias moves and `done` (or `reverted`) after the last, so that a
change that was killed in between is seen and finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock

from components.errors import EmbedlineError
from components.json_lines import whole_bytes

START = "0" * 64
Action = Literal["nominate", "promote", "rollback", "reject"]
State = Literal["pending", "done", "reverted"]


@dataclass(frozen=True)
class Change:
    """A change of roles: the version of each role before and after, the digests of the verdicts that allowed it."""

    action: Action
    version: str
    from_role: str | None
    to_role: str
    before: dict[str, str | None]
    after: dict[str, str | None]
    verdicts: list[str]
    reason: str


@dataclass(frozen=True)
class Entry(Change):
    """One line: how far the change has come, and the link to the line before."""

    n: int
    time: str
    state: State
    previous: str
    hash: str = ""

    @property
    def change(self) -> Change:
        return Change(**{field.name: getattr(self, field.name) for field in fields(Change)})

    def sealed(self) -> Entry:
        """Returns the entry with the hash over all its other fields."""
        text = json.dumps(asdict(replace(self, hash="")), sort_keys=True, ensure_ascii=False)
        return replace(self, hash=hashlib.sha256(text.encode()).hexdigest())


def append(path: Path, change: Change, state: State, head: str | None = None) -> Entry:
    """Adds a line and returns it once it is on the disk.

    A last line without an end was never acknowledged and is dropped. Raises as `verify` does: nothing is added to a
    ledger that was tampered with.
    """
    with FileLock(path.with_suffix(".lock")):
        entries = verify(path, head)
        entry = Entry(
            n=len(entries) + 1,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            state=state,
            previous=entries[-1].hash if entries else START,
            **asdict(change),
        ).sealed()
        line = json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"
        with path.open("ab") as file:
            file.truncate(whole_bytes(path))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    return entry


def lines(path: Path) -> list[bytes]:
    """Returns the lines that are whole, each with its end."""
    return path.read_bytes()[: whole_bytes(path)].splitlines(keepends=True) if path.is_file() else []


def verify(path: Path, head: str | None = None, anchors: Mapping[int, str] | None = None) -> list[Entry]:
    """Returns all entries. Raises `EmbedlineError` that names the first line that was changed, removed or moved.

    `head` is the hash of a line that was seen at the end once: lines cut off the end are found by it. `anchors` are
    hashes that lines had when they were written, by their number: they show a chain that was written anew.
    """
    entries: list[Entry] = []
    for number, line in enumerate(lines(path), 1):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise _tampered(path, number, "is no entry") from error
        if entry.sealed().hash != entry.hash:
            raise _tampered(path, number, "was changed")
        if entry.n != number or entry.previous != (entries[-1].hash if entries else START):
            raise _tampered(path, number, "does not follow the line before it: one was removed, added or moved")
        entries.append(entry)
    for number, hash_ in sorted((anchors or {}).items()):
        if number > len(entries):
            raise _tampered(path, number, "is missing: MLflow has an anchor of it")
        if entries[number - 1].hash != hash_:
            raise _tampered(path, number, "is not the one that MLflow has an anchor of")
    if head and all(entry.hash != head for entry in entries):
        raise _tampered(path, len(entries) + 1, "is missing: the registry has seen more lines than there are")
    return entries


def _tampered(path: Path, line: int, what: str) -> EmbedlineError:
    return EmbedlineError(
        f"{path}: line {line} {what}",
        "The record of who was champion cannot be trusted: compare it with a backup before anything is promoted.",
    )
