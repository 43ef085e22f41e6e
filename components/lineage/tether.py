"""Runs DVC so that it, and the stage that it runs, end with the process that started them, however that one ends.

`versions.py` starts this file with a pipe as standard input and in a process group of its own. The pipe closes when
the starter ends, even by SIGKILL; then the whole group ends. Without it a killed run would leave its stage writing.
"""

import os
import signal
import sys
import threading

from dvc.cli import main


def end_with_starter() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
