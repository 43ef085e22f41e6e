"""Logs of bounded size, also of a process that keeps its log open and knows nothing of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_LOG_BYTES = 50_000_000


def rotate(log: Path, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Copies a log that has outgrown `max_bytes` to `NAME.previous.log` and empties it; returns whether it did.

    Whoever writes must have opened it for appending. What is written between the copy and the emptying is lost.
    """
    if not log.exists() or log.stat().st_size <= max_bytes:
        return False
    shutil.copyfile(log, log.with_suffix(".previous.log"))
    os.truncate(log, 0)
    return True
