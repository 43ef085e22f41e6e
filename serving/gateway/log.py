"""The log: one JSON object a line on standard output, nothing of what a request holds."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from pydantic_core import to_json


def write(event: str, **facts: Any) -> None:
    """Writes one line. The logging module would take longer than the rest of a small request."""
    sys.stdout.buffer.write(to_json({"time": round(time.time(), 3), "event": event, **facts}) + b"\n")
    sys.stdout.buffer.flush()


class Lines(logging.Handler):
    """What libraries log, and our own faults, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        facts = {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            facts["traceback"] = logging.Formatter().formatException(record.exc_info)
        write(record.name, **facts)


def take_over() -> None:
    """Makes every logger of this process write such lines, from warnings on."""
    root = logging.getLogger()
    root.handlers[:] = [Lines()]
    root.setLevel(logging.WARNING)
