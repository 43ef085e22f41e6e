"""Where a bundle is tried without a network, and how often something in it tried to reach one all the same.

A network namespace of its own has nothing but a loopback interface. The kernel counts what finds no route out of
it, and what knocks where nobody listens, whoever asks: Python, native code, a name server's client. Where this machine
allows none, the sockets of the models' Python are blocked instead, which native code could go round.
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.environment import Environment

Proof = Literal["network namespace", "blocked sockets"]
BLOCKED_SOCKETS = Path(__file__).with_name("blocked_sockets") / "model.py"
TRIES = "EMBEDLINE_NETWORK_TRIES"
"""The variable by which that module knows its file."""
NAMESPACE = ("unshare", "--map-root-user", "--net")
LOOPBACK, SET_FLAGS, UP = b"lo", 0x8914, 0x1
NOWHERE = {"IpOutNoRoutes", "Ip6OutNoRoutes", "TcpAttemptFails", "UdpNoPorts", "Udp6NoPorts"}
"""Linux counts by these names, a namespace for itself, what found no route and what nobody listened for."""


@dataclass(frozen=True)
class BlockedSockets(Environment):
    """The server's environment, for models behind `block_sockets`, which write each try to the file `tries`."""

    tries: Path

    def variables(self) -> dict[str, str]:
        return super().variables() | {TRIES: str(self.tries)}


def available_proof() -> Proof:
    """Returns the strongest proof that this machine allows."""
    if shutil.which(NAMESPACE[0]) and not subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        return "network namespace"
    return "blocked sockets"


def start_loopback() -> None:
    """Switches on the one interface of a new network namespace, by which a server in it is asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", LOOPBACK, UP))


def block_sockets(version: Path) -> None:
    """Puts the guard before the model of a deployed version."""
    (version / "model.py").rename(version / "guarded_model.py")
    shutil.copyfile(BLOCKED_SOCKETS, version / "model.py")


def network_tries(proof: Proof, tries: Path) -> int:
    """Returns how often something in the sandbox has tried to reach what is not there."""
    if proof == "network namespace":
        return sum(count for name, count in _kernel_counts() if name in NOWHERE)
    return len(tries.read_text(encoding="utf-8").splitlines()) if tries.exists() else 0


def _kernel_counts() -> Iterator[tuple[str, int]]:
    lines = Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
    for names, counts in zip(lines[::2], lines[1::2], strict=True):
        protocol, *_ = names.split(":")
        for name, count in zip(names.split()[1:], counts.split()[1:], strict=True):
            yield protocol + name, int(count)
    version_6 = Path("/proc/self/net/snmp6")
    for line in version_6.read_text(encoding="ascii").splitlines() if version_6.exists() else ():
        name, count = line.split()
        yield name, int(count)
