"""Asking a server for embeddings."""

from serving.client.triton import (
    INPUTS,
    MAX_BATCH_BYTES,
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
    "TritonEmbedder",
    "as_row",
    "batches",
    "connect",
    "open_model",
    "open_triton",
]
