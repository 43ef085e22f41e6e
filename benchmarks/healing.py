"""How long users wait for real answers after a process of `embedline serve` was killed, and how many requests fail.

Two clients ask Triton and two the gateway all the time, one request after the other, 10 ms after each answer or
failure; an answer counts if its vector is the known one. After the supervisor is killed it is started again at once, as
systemd would. Nothing leaves the loopback.

    python benchmarks/healing.py            the slowest of three kills of each process
    python benchmarks/healing.py --quick    one kill of each
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

from components.quiet import configure

configure()

# isort: split
import numpy as np
import typer

import served_workspace
from components.errors import EmbedlineError
from components.export import read_examples
from components.workspace import STATE
from gateway_process import asking_gateway
from serving import TritonEmbedder, TritonServer
from serving.supervisor import state
from serving.supervisor.gateway import WHERE as GATEWAY
from serving.triton import memory_prefix
from table import Row, show

FAILURES = (EmbedlineError, RuntimeError, OSError, HTTPException, ValueError)
CLIENTS, PAUSE_SECONDS = 2, 0.01
PATIENCE_SECONDS = 120
RIGHT_IN_A_ROW = 20
GOALS = {"model process": 12.0, "Triton": 15.0, "gateway": 15.0, "supervisor": 60.0}
"""Seconds until real answers: a probe every 5 s finds the first, a look four times a second the next two."""
ORPHAN_SECONDS = 5.0


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One kill of each process.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "workspace")
        served_workspace.make(root, max_restarts=9)
        with serving(root) as command, Clients(root) as clients, GatewayClients(root) as through_gateway:
            commands = [command]
            rows = []
            for name, kill in KILLS.items():
                asking = through_gateway if kill is kill_gateway else clients
                found = [killed(root, commands, asking, kill) for _ in range(1 if quick else 3)]
                seconds, lost, left = (max(column) for column in zip(*found, strict=True))
                goal = GOALS[name]
                rows += [
                    Row(f"{name} killed: real answers again", seconds, "s", goal=goal, met=seconds <= goal),
                    Row("  requests lost", lost, ""),
                    Row(f"  processes left after {ORPHAN_SECONDS:g} s", left, "", goal=0, met=left == 0),
                ]
            wrong = clients.wrong + through_gateway.wrong
            rows.append(Row("wrong vectors answered meanwhile", wrong, "", goal=0, met=wrong == 0))
            ended, left = stopped(commands[-1], root)
            rows += [
                Row("SIGTERM: all has ended", ended, "s"),
                Row("  processes left", left, "", goal=0, met=left == 0),
            ]
    show("Healing", rows, machine, caption="")


@contextmanager
def serving(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yields `embedline serve` once it answers; whatever supervisor runs at the end is stopped."""
    command = start(root)
    try:
        wait(lambda: (known := state.find(root / STATE)) and known.ready)
        yield command
    finally:
        state.stop(root / STATE)


def start(root: Path) -> subprocess.Popen[bytes]:
    with (root / "serve.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "cli.main", "serve"], cwd=root, stdout=log, stderr=log)


class Clients:
    """Threads that ask the same question all the time; of each answer is kept when it came and whether it was right."""

    def __init__(self, root: Path) -> None:
        self.home = root / STATE
        examples, expected = read_examples(root / "bundle")
        self.item, self.known = examples[0], expected[0]
        self.answers: list[tuple[float, bool]] = []
        self.wrong = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(CLIENTS)]

    def ask(self) -> None:
        while not self.over.is_set():
            try:
                vector = self.vector()
                right = bool(np.allclose(vector, self.known, atol=1e-3))
                self.wrong += not right
            except FAILURES:
                right = False
            self.answers.append((time.monotonic(), right))
            time.sleep(PAUSE_SECONDS)

    def vector(self) -> np.ndarray:
        """Returns what is answered; raises one of `FAILURES` where nobody answers."""
        known = state.read(self.home)
        if not known or not known.url:
            raise EmbedlineError("nothing is served yet", "wait")
        vector: np.ndarray = TritonEmbedder(known.url, timeout_seconds=5).encode([self.item])[0]
        return vector

    def since(self, moment: float) -> list[tuple[float, bool]]:
        return [answer for answer in self.answers if answer[0] >= moment]

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        wait(lambda: len(self.answers) > RIGHT_IN_A_ROW)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


class GatewayClients(Clients):
    """The same, through the gateway."""

    def vector(self) -> np.ndarray:
        port = json.loads((self.home / GATEWAY).read_text(encoding="utf-8"))["port"]
        vector: np.ndarray = asking_gateway(port)([self.item])[0]
        return vector


Kill = Callable[[Path, list[subprocess.Popen[bytes]]], set[int]]


def kill_model(root: Path, _: list[subprocess.Popen[bytes]]) -> set[int]:
    stubs = {pid for pid, command in processes(root).items() if "triton_python_backend_stub" in command}
    for pid in stubs:
        os.kill(pid, signal.SIGKILL)
    return stubs


def kill_triton(root: Path, _: list[subprocess.Popen[bytes]]) -> set[int]:
    server = TritonServer.find(root / STATE)
    assert server
    before = set(processes(root))
    os.kill(server.pid, signal.SIGKILL)
    return before


def kill_gateway(root: Path, _: list[subprocess.Popen[bytes]]) -> set[int]:
    pid = int(json.loads((root / STATE / GATEWAY).read_text())["pid"])
    os.kill(pid, signal.SIGKILL)
    return {pid}


def kill_supervisor(root: Path, commands: list[subprocess.Popen[bytes]]) -> set[int]:
    before = set(processes(root))
    commands[-1].kill()
    commands[-1].wait()
    commands.append(start(root))
    return before


KILLS: dict[str, Kill] = {
    "model process": kill_model,
    "Triton": kill_triton,
    "gateway": kill_gateway,
    "supervisor": kill_supervisor,
}


def killed(root: Path, commands: list[subprocess.Popen[bytes]], clients: Clients, kill: Kill) -> tuple[float, int, int]:
    """Returns the seconds until the first answer after the last failure, the requests that failed, and how many of
    the processes that should have ended are left after `ORPHAN_SECONDS`."""
    began = time.monotonic()
    doomed = kill(root, commands)
    wait(lambda: not all(right for _, right in clients.since(began)))
    wait(lambda: all(right for _, right in clients.since(began)[-RIGHT_IN_A_ROW:]))
    answers = clients.since(began)
    last_failure = max(position for position, (_, right) in enumerate(answers) if not right)
    time.sleep(max(0.0, began + ORPHAN_SECONDS - time.monotonic()))
    left = len(doomed & set(processes(root)))
    return answers[last_failure + 1][0] - began, sum(not right for _, right in answers), left


def stopped(command: subprocess.Popen[bytes], root: Path) -> tuple[float, int]:
    """Returns the seconds from SIGTERM to the end, and how many processes are left then."""
    began = time.monotonic()
    command.terminate()
    command.wait()
    return time.monotonic() - began, len(processes(root))


def processes(root: Path) -> dict[int, str]:
    """Returns the command lines of all processes that belong to this workspace's Triton, its watchers included."""
    prefix, found = memory_prefix((root / STATE).resolve()), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if prefix in command:
            found[int(folder.name)] = command
    return found


def wait(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happens():
        if time.monotonic() > deadline:
            raise SystemExit(f"no real answer within {PATIENCE_SECONDS} s")
        time.sleep(0.02)


if __name__ == "__main__":
    typer.run(main)
