"""Alerts as lines of a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from components.sections import Section
from components.workspace import STATE


class Settings(Section):
    name: Literal["log"] = "log"
    path: str = str(STATE / "alerts.log")


def send(settings: Settings, subject: str, text: str) -> None:
    path = Path(settings.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = " ".join(f"{subject}: {text}".split())
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")
