"""Asking a server for embeddings: `Embedder` for applications, `TritonEmbedder` for this project's own commands."""

from serving.client.embedder import AsyncEmbedder, Embedder
from serving.client.retries import Unavailable
from serving.client.triton import (
    INPUTS,
    MAX_BATCH_BYTES,
    Row,
    TritonEmbedder,
    as_row,
    batches,
    connect,
    open_model,
    open_triton,
)

__all__ = [
    "INPUTS",
    "MAX_BATCH_BYTES",
    "AsyncEmbedder",
    "Embedder",
    "Row",
    "TritonEmbedder",
    "Unavailable",
    "as_row",
    "batches",
    "connect",
    "open_model",
    "open_triton",
]
