"""What happened to the served model and its processes: one line of JSON an event, in `.embedline/events.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from components.json_lines import whole_bytes

Kind = Literal[
    "started",
    "ended",
    "unhealthy",
    "healed",
    "gave_up",
    "deployed",
    "promoted",
    "rolled_back",
    "canary_started",
    "canary_returned",
    "shadow_started",
    "shadow_ended",
    "golden_failed",
    "drift_alarm",
    "quality_fell",
    "retrain_wanted",
]
EVENTS, PREVIOUS = "events.jsonl", "events.previous.jsonl"
MAX_BYTES = 5_000_000


def record(home: Path, kind: Kind, **facts: Any) -> None:
    """Appends an event with the time in UTC; a full file becomes the previous one. Processes may write at once."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **facts})
    home.mkdir(parents=True, exist_ok=True)
    path = home / EVENTS
    with FileLock(home / "events.lock"):
        if path.exists() and path.stat().st_size + len(line) > MAX_BYTES:
            path.replace(home / PREVIOUS)
        with path.open("ab") as file:
            file.truncate(whole_bytes(path))
            file.write(line.encode() + b"\n")


def read_events(home: Path) -> list[dict[str, Any]]:
    """Returns the events that are kept, oldest first; a line that a full disk has cut off is left out."""
    return [event for name in (PREVIOUS, EVENTS) for event in _read(home / name)]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
