"""A gateway in a process of its own in front of a Triton, and what asks it, a connection for each thread."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import local

import numpy as np
import psutil

from components.corpus import Item
from components.export.bundle import MODEL
from serving.client import as_row
from serving.client.gateway import request_body
from serving.gateway.server import STATE
from serving.routes import Routes, Target, write_routes

START_SECONDS = 60
RUN = """
import sys
from pathlib import Path
from components.gateway import Gateway
from serving.gateway.server import run
run(Path(sys.argv[1]), Gateway(port=0, triton=sys.argv[2]))
"""


@contextmanager
def gateway(home: Path, grpc_port: int, version: int = 1) -> Iterator[tuple[int, psutil.Process]]:
    """Yields the port and the process of a gateway with its standard settings, which answers by that version."""
    write_routes(home, Routes(Target(MODEL, version)))
    with (home / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(home), f"127.0.0.1:{grpc_port}"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (home / STATE).is_file():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the gateway did not start: {(home / 'gateway.log').read_text()}")
            time.sleep(0.05)
        yield int(json.loads((home / STATE).read_text())["port"]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def asking_gateway(port: int) -> Callable[[Sequence[Item]], np.ndarray]:
    """Returns what asks for vectors in base64; it raises `RuntimeError` where the answer is another than 200."""
    connections = local()

    def ask(items: Sequence[Item]) -> np.ndarray:
        if not hasattr(connections, "client"):
            connections.client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        rows = [as_row(position, item) for position, item in enumerate(items)]
        body = request_body(rows, MODEL, None, "")
        connections.client.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = connections.client.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{answer.status}: {content[:300]!r}")
        vectors = [base64.b64decode(one["embedding"]) for one in json.loads(content)["data"]]
        return np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)

    return ask
