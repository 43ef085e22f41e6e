"""`embedline serve` without a terminal."""

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


def detach(home: Path, options: Sequence[str]) -> State:
    """Starts `embedline serve` in a session of its own and returns its state once all answers.

    Raises `EmbedlineError` with the end of its log if it ends before. Ctrl-C stops what is being started.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / OWN_LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "serve", *options],
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
    said = (home / OWN_LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    raise EmbedlineError(
        f"it ended at start-up, exit code {process.returncode}:\n" + "\n".join(said), f"See {home / OWN_LOG}."
    )
