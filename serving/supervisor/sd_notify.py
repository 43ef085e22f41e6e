"""What systemd hears of the service (sd_notify(3)): ready, stopping, alive, and a line of status."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*messages: str) -> None:
    """Sends messages such as `READY=1` to the service manager that started this process, if one did."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace of Linux
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        # serving goes on without a listener, and never waits for one that does not read; systemd itself acts upon a
        # missing WATCHDOG=1
        datagram.setblocking(False)
        datagram.sendto("\n".join(messages).encode(), address)
