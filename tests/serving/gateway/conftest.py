"""A real gateway, in a process of its own, in front of the real Triton of the tests above."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving import TritonServer

ROOT = Path(__file__).parents[3]
RUN = """
import json, sys
from pathlib import Path
from components.gateway import Gateway
from serving.gateway.server import run
run(Path(sys.argv[1]), Gateway(**json.loads(sys.argv[2])))
"""


@dataclass(frozen=True)
class RunningGateway:
    """A gateway of the tests; `triton_home` is where its Triton runs."""

    home: Path
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, content: Any, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """Returns the answer to `POST /v1/embeddings`."""
        body = {"input": content, **more}
        return httpx.post(f"{self.url}/v1/embeddings", json=body, headers=headers, timeout=30, trust_env=False)

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=30, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, trust_env=False)

    def lines(self) -> list[dict[str, Any]]:
        """Returns its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def running(home: Path, **settings: Any) -> Iterator[RunningGateway]:
    """Starts a gateway whose state is in `home`, and stops it at the end."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(home), json.dumps({"port": 0, **settings})],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: '"started"' in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield RunningGateway(home, process, json.loads((home / "gateway.json").read_text())["port"], log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def triton_address(session_server: TritonServer) -> str:
    return f"127.0.0.1:{session_server.grpc_port}"


@pytest.fixture(scope="session")
def gateway(triton_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without keys, with small limits, on routes that name version 2 as the stable one."""
    from serving.routes import Routes, Target, write_routes

    home = tmp_path_factory.mktemp("gateway")
    write_routes(home, Routes(Target("embedder", 2)))
    limits = {"max_items": 100, "max_bytes": 2_000_000, "max_text_characters": 1000, "max_image_pixels": 1_000_000}
    with running(home, triton=triton_address, **limits) as started:
        yield started
