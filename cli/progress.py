"""What a user sees of a running flow: one line a finished step; everything else goes to a log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging.configuration import setup_logging
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from components.workspace import STATE

FLOW_LOG = STATE / "logs" / "prefect.log"


class Steps(logging.Handler):
    """Shows the line that the running task says last, and how long each task run has taken.

    The clock of a task run starts at its first record: Prefect logs at DEBUG that it has created the run.
    """

    def __init__(self, screen: Console) -> None:
        super().__init__(logging.DEBUG)
        self.screen = screen
        self.status = screen.status("starting")
        self.began: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        run = getattr(record, "task_run_id", None)
        if run is None or record.levelno > logging.INFO:
            return
        task, message = record.__dict__["task_name"], record.getMessage()
        began = self.began.setdefault(run, time.monotonic())
        if message.startswith("Finished in state Completed"):
            self.screen.print(f"{task} ({time.monotonic() - began:.0f} s)", highlight=False)
        elif record.levelno == logging.INFO:
            self.status.update(f"{task}: {message}")


@contextmanager
def shown(screen: Console) -> Iterator[None]:
    """Shows the steps of the flow that runs inside on `screen`, and sends Prefect's own lines to `FLOW_LOG`."""
    setup_logging()
    FLOW_LOG.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(FLOW_LOG, "w", encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root, steps = logging.getLogger(), Steps(screen)
    for handler in [handler for handler in root.handlers if isinstance(handler, PrefectConsoleHandler)]:
        root.removeHandler(handler)
    root.addHandler(file)
    task_runs = logging.getLogger("prefect.task_runs")
    task_runs.setLevel(logging.DEBUG)
    task_runs.addHandler(steps)
    with steps.status:
        yield
