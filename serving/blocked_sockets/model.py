"""Stands before the `model.py` of a version on trial: from its import on, no socket of that process reaches anything.

It is for machines that allow no network namespace. Every try is written to the file that the variable names, then
fails. Native code that calls the system by itself is not seen, which a namespace would stop too.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

TRIES = "EMBEDLINE_NETWORK_TRIES"
CONNECTING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
ASKING_FOR_NAMES = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raises `PermissionError` where Python is about to reach out by anything but a file's socket."""
    connects = event in CONNECTING and arguments[0].family != socket.AF_UNIX
    if connects or event in ASKING_FOR_NAMES:
        with Path(os.environ[TRIES]).open("a", encoding="utf-8") as tries:
            tries.write(f"{event} {arguments[1:]}\n")
        raise PermissionError(f"{event}: a model on trial has no network")


sys.addaudithook(refuse)

from guarded_model import TritonPythonModel  # type: ignore[import-not-found]  # noqa: E402 (what it loads is watched)

__all__ = ["TritonPythonModel"]
