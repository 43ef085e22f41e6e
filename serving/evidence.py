"""What a real server says of a bundle before anybody is served by it: the evidence for the infrastructure blessing."""

from __future__ import annotations

import logging
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from components.corpus import Item
from components.errors import EmbedlineError
from components.export import read_examples
from serving import repository
from serving.client import TritonEmbedder
from serving.control import least_cosine, load
from serving.triton import TritonServer

PROBES = 20
VERSION = 1


def measure(home: Path, bundle: Path, startup_seconds: float = 60) -> dict[str, float]:
    """Returns what was measured of the bundle on a server of its own, the only one that runs in `home`.

    Each example of the bundle is asked alone. `answered_fraction` of them got a finite vector of the right length;
    `server_cosine` is the least cosine of those to the bundle's expected vectors, -1 if there are none. `latency_ms` is
    the median of single text requests, `size_bytes` the size of the version's files. Raises `EmbedlineError` if the
    server does not start, does not load the bundle, or answers no text.
    """
    examples, expected = read_examples(bundle)
    with fresh_server(home, startup_seconds) as server:
        repository.add_version(server.repository, bundle, VERSION)
        config = (bundle / repository.CONFIG).read_text(encoding="utf-8")
        repository.write_config(server.repository, config, [VERSION])
        load(server)
        embedder = TritonEmbedder(server.url, version=VERSION)
        answers = [ask(embedder, example) for example in examples]
        latency_ms = statistics.median(seconds_of(embedder, Item(text=f"probe {n}")) for n in range(PROBES)) * 1000
    right = [
        (got, known)
        for got, known in zip(answers, expected, strict=True)
        if got is not None and got.shape == known.shape
    ]
    return {
        "server_cosine": least_cosine(*map(np.stack, zip(*right, strict=True))) if right else -1.0,
        "answered_fraction": len(right) / len(examples) if examples else 0.0,
        "latency_ms": latency_ms,
        "size_bytes": sum(file.stat().st_size for file in (bundle / "version").rglob("*") if file.is_file()),
    }


@contextmanager
def fresh_server(home: Path, startup_seconds: float) -> Iterator[TritonServer]:
    """Yields a server on free ports with an empty repository; one that still runs in `home` is stopped first."""
    if left := TritonServer.find(home):
        left.stop()
    if (old := home / "model_repository").exists():
        shutil.rmtree(old)
    with TritonServer.start(home, 0, 0, 0, startup_seconds) as server:
        yield server


def ask(embedder: TritonEmbedder, item: Item) -> np.ndarray | None:
    """Returns the vector of one item, `(dimension,)`, or None, with the reason in the log, if there is no answer."""
    try:
        vector: np.ndarray = embedder.encode([item])[0]
    except EmbedlineError as error:
        logging.getLogger(__name__).warning("an example was not answered: %s", error.problem)
        return None
    return vector


def seconds_of(embedder: TritonEmbedder, item: Item) -> float:
    began = time.perf_counter()
    embedder.encode([item])
    return time.perf_counter() - began
