"""A PostgreSQL of a test's own, on a free port, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USER = "postgres"


@contextmanager
def running() -> Iterator[str]:
    """Yields the address `HOST:PORT` of a cluster whose user `postgres` needs no password; it ends with the block."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql."))
    as_root = os.geteuid() == 0  # the server refuses to run as root
    if as_root:
        shutil.chown(folder, USER, USER)
    prefix = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups") if as_root else ()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = (*prefix, str(PROGRAMS[-1] / program), *arguments)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    data, log = str(folder / "data"), str(folder / "log")
    try:
        call("initdb", "--username", USER, "--auth", "trust", "--no-sync", data)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "start", "--wait", "--pgdata", data, "--log", log, "--options", options)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            call("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", data)
    finally:
        shutil.rmtree(folder)
