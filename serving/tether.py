"""Runs a server so that it ends with the process that started it, however that one ends.

Who starts this file gives it a pipe as standard input and a process group of its own. A watcher stays behind, then this
process becomes the server. The pipe closes when the starter ends, even by SIGKILL; then the watcher ends the group.
Without it, a command that was killed would leave its server running.
"""

import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path


def end_with_starter(server: int, group: int, region: str) -> None:
    """Waits until the starter or the server (a pidfd) ends; in the first case ends the server with all that is its.

    `region` is that of a Triton server's shared memory, empty for another server.
    """
    ended, _, _ = select.select([sys.stdin.fileno(), server], [], [])
    if server in ended:
        return
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    select.select([server], [], [])
    if region:
        clear_leftovers(region)


def clear_leftovers(region: str) -> None:
    """Ends the model processes of a server that was killed, and frees their shared memory, which Triton leaves both.

    The names of that memory begin with `region`.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            if command[0].endswith("triton_python_backend_stub") and command[2].startswith(region):
                os.kill(int(process.name), signal.SIGKILL)
    for memory in Path("/dev/shm").glob(f"{region}*"):  # noqa: S108 (where Triton has its shared memory)
        memory.unlink(missing_ok=True)


def main(region: str, command: list[str]) -> None:
    group = os.getpid()
    server = os.pidfd_open(group)
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild: Triton's children are its model processes alone
            os.setsid()
            end_with_starter(server, group, region)
        os._exit(0)
    os.wait()
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.execv(command[0], command)  # noqa: S606 (no shell is the point)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
