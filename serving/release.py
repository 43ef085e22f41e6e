"""What a real server says of a version: the evidence that the infrastructure blessing asks for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.corpus.item import Item
from components.export.config import Serving
from serving.client import TritonEmbedder
from serving.control import deploy, probe
from serving.triton import TritonServer

PROBES = 20


@contextmanager
def running_server(home: Path, config: Serving) -> Iterator[TritonServer]:
    """Yields the server that runs in `home`; where none does, one on free ports that is stopped afterwards."""
    if server := TritonServer.find(home):
        yield server
        return
    with TritonServer.start(home, 0, 0, 0, config.startup_seconds) as server:
        yield server


def release(server: TritonServer, bundle: Path, version: int) -> dict[str, object]:
    """Deploys the bundle and returns what was measured: the checks that `registry.infrastructure` judges.

    `server_cosine` is the least cosine between the server's and the bundle's own vectors of its examples, `latency_ms`
    the median of single text requests, `size_bytes` the size of the version's files. Raises `EmbedlineError` if the
    server does not load or answer it; what was served before goes on.
    """
    deploy(server, bundle, version)
    embedder = TritonEmbedder(server.url, version=version)
    latencies = []
    for number in range(PROBES):
        began = time.perf_counter()
        embedder.encode([Item(text=f"probe {number}")])
        latencies.append((time.perf_counter() - began) * 1000)
    return {
        "loaded": True,
        "answered": True,
        "server_cosine": probe(server.url, bundle, version),
        "latency_ms": statistics.median(latencies),
        "size_bytes": sum(file.stat().st_size for file in (bundle / "version").rglob("*") if file.is_file()),
    }
