"""A server beside Triton, such as the gateway: started, asked, restarted, and ended with the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from components.errors import EmbedlineError
from serving.triton import TETHER

DRAIN_SECONDS = 30
"""How long a child may finish what it was asked before it is killed."""


@dataclass(frozen=True)
class Child:
    """What is to run. `probe` raises `EmbedlineError` unless the child does its work; it tells nothing of Triton."""

    name: str
    command: tuple[str, ...]
    probe: Callable[[], None]


class ChildProcess:
    """A child as a process of a group of its own, which ends with this process (`tether.py`); its log is in `home`."""

    reloadable = False

    def __init__(self, child: Child, home: Path, startup_seconds: float) -> None:
        self.child = child
        self.name = child.name
        self.log = home / f"{child.name}.log"
        self.startup_seconds = startup_seconds
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it and waits until its probe passes. Raises `EmbedlineError` if it ends before, or is too slow."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), "", *self.child.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + self.startup_seconds
        while self.is_running:
            try:
                self.probe()
                return
            except EmbedlineError as error:
                if time.monotonic() > deadline:
                    raise EmbedlineError(
                        f"the {self.name} did not answer within {self.startup_seconds:g} s: {error.problem}",
                        self.advice,
                    ) from error
            time.sleep(0.05)
        raise EmbedlineError(f"the {self.name} ended at start-up: exit code {self.process.returncode}", self.advice)

    @property
    def advice(self) -> str:
        return f"see its log: {self.log}"

    def probe(self) -> None:
        self.child.probe()

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        """Asks it to end, and kills its group after `DRAIN_SECONDS`."""
        if self.process is None:
            return
        if self.is_running:
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DRAIN_SECONDS)
        with suppress(ProcessLookupError):  # what it has started itself goes with it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin
        self.process.stdin.close()
