"""One interface for the embedder, whatever computes it: torch from a model directory, ONNX Runtime from an exported one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.embedder.runtime import Runtime

if TYPE_CHECKING:
    from components.corpus.item import Item

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Anything that turns items into vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Returns `(n, dimension)` float32, L2-normalised."""
        ...


class TorchEmbedder:
    """A sentence-transformers model directory, computed by torch in float32."""

    def __init__(self, directory: Path, batch_size: int = 256) -> None:
        from components.embedder.dual_encoder import load

        self.name = directory.name
        self.encoder = load(directory)
        self.dimension = self.encoder.description.dimension
        self.batch_size = batch_size

    def encode(self, items: Sequence[Item]) -> Vectors:
        import torch

        def forward(batch: Sequence[Item]) -> Vectors:
            inputs = [{"text": item.text, "image": item.image, "instruction": item.instruction} for item in batch]
            with torch.inference_mode():
                features = self.encoder(self.encoder.preprocess(inputs))
            vectors: Vectors = features["sentence_embedding"].numpy()
            return vectors

        return in_batches(items, forward, self.batch_size, self.dimension)


class OnnxEmbedder:
    """An exported directory, computed by the very runtime that the server runs."""

    def __init__(self, directory: Path, batch_size: int = 64, threads: int | None = None) -> None:
        self.name = directory.name
        self.runtime = Runtime(directory, threads, batch_size)
        self.dimension = self.runtime.description.dimension
        self.batch_size = batch_size

    def encode(self, items: Sequence[Item]) -> Vectors:
        def forward(batch: Sequence[Item]) -> Vectors:
            return self.runtime.encode(
                [item.text for item in batch],
                [item.image for item in batch],
                [item.instruction for item in batch],
            )

        return in_batches(items, forward, self.batch_size, self.dimension)


def in_batches(
    items: Sequence[Any], forward: Callable[[Sequence[Any]], Vectors], batch_size: int, dimension: int
) -> Vectors:
    """Returns the vectors of all items in their order; items of like length share a batch, so that little is padded."""
    order = sorted(range(len(items)), key=lambda row: (items[row].image is None, len(items[row].text or "")))
    vectors = np.empty((len(items), dimension), np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        vectors[rows] = forward([items[row] for row in rows])
    return vectors


def fingerprint(directory: Path) -> str:
    """Returns one SHA-256 over all files of a model directory: its weights, processor files and configuration."""
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            digest.update(f"{file.relative_to(directory).as_posix()}\0".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
