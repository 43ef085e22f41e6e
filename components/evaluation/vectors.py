"""The vectors of a suite's items, kept under the key of all that they depend on, so that a killed evaluation goes on.

`cache/KEY/vectors.npy` is complete; until then `partial.npy` holds the rows that `progress.json` counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

import components.embedder
from components.embedder import Embedder, Vectors
from components.errors import EmbedlineError
from components.evaluation.scoring import unit
from components.evaluation.sets import Suite

Progress = Callable[[int, int], None]
"""Is told how many items have their vector, and how many there are."""
VECTORS, PARTIAL, PROGRESS = "vectors.npy", "partial.npy", "progress.json"


@dataclass(frozen=True)
class Encoded:
    """How many items have their vector, and how long the embedder took for them, over all sessions."""

    items: int = 0
    seconds: float = 0.0


def cached_vectors(
    embedder: Embedder, name: str, fingerprint: str, suite: Suite, chunk: int, cache: Path, progress: Progress
) -> tuple[Vectors, float]:
    """Returns the vectors `(items, dimension)`, memory-mapped, and how many items a second were encoded.

    Items that no earlier session encoded are encoded now, `chunk` at a time; a kill costs the chunk at hand. The speed
    counts only the embedder's own time; vectors that were there keep the speed at which they were made.

    Raises `EmbedlineError` naming model, set and row if a vector is zero or not finite, or if the embedder answers with
    another shape than it announced.
    """
    folder = cache / vectors_key(embedder, fingerprint, suite)
    encoded = _finished(folder)
    progress(encoded.items, len(suite.items))
    if not (folder / VECTORS).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        encoded = _encode(embedder, name, suite, chunk, folder, encoded, progress)
        (folder / PARTIAL).replace(folder / VECTORS)
    return np.load(folder / VECTORS, mmap_mode="r"), encoded.items / encoded.seconds


def vectors_key(embedder: Embedder, fingerprint: str, suite: Suite) -> str:
    """Returns the SHA-256 of all that the vectors depend on: model, data, items, backend, dtype and code."""
    backend = type(embedder)
    identity = {
        "fingerprint": fingerprint,
        "dataset": suite.manifest.digest,
        "items": suite.items_digest,
        "backend": f"{backend.__module__}.{backend.__qualname__}",
        "vector": ["float32", embedder.dimension],
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _encode(
    embedder: Embedder, name: str, suite: Suite, chunk: int, folder: Path, encoded: Encoded, progress: Progress
) -> Encoded:
    """Appends the missing vectors to the partial file; a full disk is an error, where a memory map would crash."""
    count, dimension = len(suite.items), embedder.dimension
    with (folder / PARTIAL).open("r+b" if encoded.items else "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.seek(encoded.items * dimension * np.dtype("<f4").itemsize, os.SEEK_CUR)
        while (start := encoded.items) < count:
            items = suite.items[start : start + chunk]
            began = time.perf_counter()
            vectors = np.asarray(embedder.encode(items), "<f4")
            seconds = encoded.seconds + time.perf_counter() - began
            if vectors.shape != (len(items), dimension):
                raise EmbedlineError(
                    f"{name}: {len(items)} items gave vectors of shape {vectors.shape}, not {(len(items), dimension)}",
                    "No score is given. The embedder must return one vector an item.",
                )
            unit(vectors, np.arange(len(items)), partial(_place, name, suite, start))
            stream.write(vectors.tobytes())
            stream.flush()
            os.fsync(stream.fileno())
            encoded = Encoded(start + len(items), seconds)
            _note(folder, encoded)
            progress(encoded.items, count)
    return encoded


def _place(name: str, suite: Suite, start: int, row: int) -> str:
    return f"{name}: {suite.place(start + row)}"


def _finished(folder: Path) -> Encoded:
    """Returns what earlier sessions have done; nothing if their vectors are gone."""
    if not any((folder / name).is_file() for name in (VECTORS, PARTIAL)) or not (folder / PROGRESS).is_file():
        return Encoded()
    return Encoded(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))


def _note(folder: Path, encoded: Encoded) -> None:
    unfinished = folder / f".{PROGRESS}.partial"
    unfinished.write_text(json.dumps(asdict(encoded)), encoding="utf-8")
    unfinished.replace(folder / PROGRESS)


def _code_digest() -> str:
    """Returns the SHA-256 of the embedder component's source: the same weights under other code give other vectors."""
    digest = hashlib.sha256()
    for file in sorted(Path(components.embedder.__path__[0]).glob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
