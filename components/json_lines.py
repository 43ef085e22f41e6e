"""Files with a JSON object in each line. A process that was killed, or a full disk, may leave the beginning of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from components.errors import DataInvalid

Read = TypeVar("Read")


def append(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Adds a line an object, after the last whole line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects)
    with FileLock(path.with_suffix(".lock")), path.open("ab") as file:
        file.truncate(whole_bytes(path))
        file.write(text.encode())


def read(path: Path, of: Callable[[Any], Read], what: str) -> list[Read]:
    """Returns what `of` makes of each whole line, nothing if there is no such file.

    Raises `DataInvalid` that names the line of which it raises `ValueError`, `TypeError` or `KeyError`: it is not
    `what` it should be.
    """
    lines = path.read_bytes()[: whole_bytes(path)].splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(of(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise DataInvalid(f"{path}, line {number}: is no {what}: {error}", "Move the file away.") from error
    return found


def whole_bytes(path: Path) -> int:
    """Returns how many bytes the whole lines take, 0 if there is no such file; only one that was cut off is read."""
    if not path.is_file() or not (size := path.stat().st_size):
        return 0
    with path.open("rb") as file:
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return size
        file.seek(0)
        return file.read(size).rfind(b"\n") + 1
