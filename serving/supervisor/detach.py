"""A command that stays, without a terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from components.errors import EmbedlineError
from serving.supervisor import state
from serving.supervisor.state import State
from serving.supervisor.supervise import OWN_LOG

SHOWN_LINES = 10


def detach(home: Path, arguments: Sequence[str], log_name: str = OWN_LOG) -> State:
    """Starts the command `embedline ARGUMENTS` in a session of its own and returns its state once all answers.

    Raises `EmbedlineError` with the end of its log if it ends before. Ctrl-C stops what is being started.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / log_name).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            found = state.find(home)
            if found and found.ready and found.pid == process.pid:
                return found
            time.sleep(0.1)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    said = (home / log_name).read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    raise EmbedlineError(
        f"it ended at start-up, exit code {process.returncode}:\n" + "\n".join(said), f"See {home / log_name}."
    )
