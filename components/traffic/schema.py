"""The schema of recorded traffic: one row a request, and one row each time that a user took a hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.embedder import Vectors

REQUESTS = pa.schema(
    [
        pa.field("time", pa.float64(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32())),
        pa.field("norm", pa.float32()),
        pa.field("modality", pa.string()),
        pa.field("instruction", pa.string()),
        pa.field("language", pa.string()),
        pa.field("text_length", pa.int32()),
        pa.field("image_width", pa.int32()),
        pa.field("image_height", pa.int32()),
        pa.field("image_mode", pa.string()),
        pa.field("latency_ms", pa.float32()),
        pa.field("top_score", pa.float32()),
        pa.field("margin", pa.float32()),
        pa.field("model_version", pa.string()),
        pa.field("raw_text", pa.string()),
        pa.field("raw_image", pa.binary()),
    ]
)
FEEDBACK = pa.schema(
    [
        pa.field("time", pa.float64(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("taken", pa.int32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("image", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Request:
    """One request as it was answered; None stands for what is not there or not known.

    `time` is in seconds since 1970, UTC; `embedding (dimension,)` has norm 1, `norm` is that of the vector before.
    `modality` is text, image or composed, or empty for a request that asked nothing. `text_length` is in characters.
    An image that could not be decoded has no mode and no size. `top_score` is the cosine of the best hit where a search
    followed, `margin` how far the second one lay below it. The raw inputs are written only where that is switched on.
    """

    time: float
    request_id: str
    embedding: Vectors | None
    modality: str
    model_version: str
    norm: float | None = None
    instruction: str | None = None
    language: str | None = None
    text_length: int | None = None
    image_width: int | None = None
    image_height: int | None = None
    image_mode: str | None = None
    latency_ms: float | None = None
    top_score: float | None = None
    margin: float | None = None
    raw_text: str | None = None
    raw_image: bytes | None = None


@dataclass(frozen=True)
class Feedback:
    """That the user of a request took a hit: `taken` is its rank from 1, or 0 if the user said that none was right.

    `text` and `image` are what the hit shows, written only where raw inputs are kept.
    """

    time: float
    request_id: str
    taken: int
    text: str | None = None
    image: bytes | None = None


def request_table(rows: Sequence[Request]) -> pa.Table:
    """Returns the requests as a table of the schema `REQUESTS`."""
    columns = {name: pa.array([getattr(row, name) for row in rows], REQUESTS.field(name).type)
               for name in REQUESTS.names if name != "embedding"}  # fmt: skip
    columns["embedding"] = _embeddings([row.embedding for row in rows])
    return pa.table([columns[name] for name in REQUESTS.names], schema=REQUESTS)


def feedback_table(rows: Sequence[Feedback]) -> pa.Table:
    """Returns the feedback as a table of the schema `FEEDBACK`."""
    return pa.Table.from_pylist([vars(row) for row in rows], FEEDBACK)


def _embeddings(vectors: Sequence[Vectors | None]) -> pa.Array:
    missing = pa.array([vector is None for vector in vectors])
    there = [np.empty(0, np.float32) if vector is None else np.asarray(vector, np.float32) for vector in vectors]
    offsets = np.cumsum([0, *(len(vector) for vector in there)], dtype=np.int32)
    values = pa.array(np.concatenate([*there, np.empty(0, np.float32)]))
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=missing)
