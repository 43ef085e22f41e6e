"""Python imports this when it starts in a model's process: from then on no socket of it reaches anything.

It is for machines that allow no network namespace. Every try is written to the file that the variable names, then
fails. Native code that calls the system by itself is not seen, which a namespace would stop too.
"""

import os
import socket
import sys
from typing import Any

TRIES = "EMBEDLINE_NETWORK_TRIES"
CONNECTING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
ASKING_FOR_NAMES = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raises `PermissionError` where Python is about to reach out by anything but a file's socket."""
    connects = event in CONNECTING and arguments[0].family != socket.AF_UNIX
    if connects or event in ASKING_FOR_NAMES:
        with open(os.environ[TRIES], "a", encoding="utf-8") as tries:
            tries.write(f"{event} {arguments[1:]}\n")
        raise PermissionError(f"{event}: a model on trial has no network")


sys.addaudithook(refuse)
