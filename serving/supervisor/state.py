"""The supervisor of a workspace as other commands see it: `.embedline/supervisor.json`."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from components.errors import EmbedlineError
from components.files import write_text
from serving.triton import process_birth

STATE_FILE = "supervisor.json"
STOP_SECONDS = 90


@dataclass(frozen=True)
class State:
    """What the supervisor with this pid, born when it says, last knew.

    `ready` once all has started; `healthy` says of each process whether its last probe passed. `checked` is the time
    of the last probe (UTC), `reloads` and `restarts` count since the start.
    """

    pid: int
    born: int
    started: str
    ready: bool = False
    url: str | None = None
    grpc_port: int | None = None
    metrics_url: str | None = None
    version: int | None = None
    healthy: dict[str, bool] | None = None
    reloads: int = 0
    restarts: int = 0
    checked: str | None = None

    @property
    def is_running(self) -> bool:
        return process_birth(self.pid) == self.born

    def write(self, home: Path) -> None:
        write_text(home / STATE_FILE, json.dumps(asdict(self), indent=2) + "\n")


def read(home: Path) -> State | None:
    """Returns what the last supervisor of `home` wrote, running or not. Raises `EmbedlineError` if it is damaged."""
    path = home / STATE_FILE
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise EmbedlineError(f"{path} is not a supervisor's state: {error}", "remove it") from error


def find(home: Path) -> State | None:
    """Returns the state of the running supervisor of `home`, or None."""
    state = read(home)
    return state if state and state.is_running else None


def stop(home: Path) -> State | None:
    """Ends the running supervisor with all that it started, and returns its last state; None if none runs.

    Raises `EmbedlineError` if it has not ended after `STOP_SECONDS`.
    """
    state = find(home)
    if state:
        os.kill(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while state.is_running:
            if time.monotonic() > deadline:
                raise EmbedlineError(
                    f"process {state.pid} has not ended after {STOP_SECONDS} s",
                    f"kill it: `kill -9 {state.pid}`; what it started ends with it",
                )
            time.sleep(0.05)
    return state
