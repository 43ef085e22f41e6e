"""Answered requests and feedback, kept for `embedline monitor`: written in threads that no request waits for."""

from __future__ import annotations

import io
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from components.traffic import Feedback, Request, TrafficWriter, feedback_table, request_table
from components.workspace import FEEDBACK, TRAFFIC
from serving.client import Row

LETTERS = 64
"""How many letters of a text tell its script."""


@dataclass(frozen=True)
class Answered:
    """One item as it was answered: its `vector (dimension,)`, by which version, after how many milliseconds."""

    time: float
    request_id: str
    row: Row
    vector: np.ndarray
    version: int
    milliseconds: float


class Recorder:
    """Keeps a share of the answered items of `home`, and all feedback; their content only with `raw`, and of texts not
    what matches one of the regular expressions `redact`."""

    def __init__(self, home: Path, share: float, raw: bool = False, redact: Sequence[str] = ()) -> None:
        self.share, self.raw, self.redact = share, raw, redact
        self.traffic = TrafficWriter(home / TRAFFIC.name, table=self.answered_table, share=share)
        self.feedback = TrafficWriter(home / FEEDBACK.name, table=feedback_table)

    def answered(
        self, request_id: str, rows: Sequence[Row], vectors: Sequence[np.ndarray], version: int, milliseconds: float
    ) -> None:
        """Takes the items of a request and returns at once. One item has the id of its request; of several each has
        its number after it, from 0."""
        if not self.share:
            return
        now = time.time()
        for number, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
            name = request_id if len(rows) == 1 else f"{request_id}-{number}"
            self.traffic.record(Answered(now, name, row, vector, version, milliseconds))

    def took(self, request_id: str, rank: int, hit: Row | None = None) -> None:
        """Takes that the user of a request took the hit of a rank, 0 for none, and what that hit shows."""
        text, image, _ = hit if hit and self.raw else (b"", b"", b"")
        words = redacted(text.decode(), self.redact) or None
        self.feedback.record(Feedback(time.time(), request_id, rank, words, image or None))

    def lost(self) -> int:
        """Returns how many rows could not be kept."""
        counts = [writer.counts() for writer in (self.traffic, self.feedback)]
        return sum(each.dropped_queue + each.dropped_disk for each in counts)

    def close(self) -> None:
        """Writes what is left."""
        self.traffic.close()
        self.feedback.close()

    def answered_table(self, rows: Sequence[Answered]) -> pa.Table:
        """Returns answered items as recorded requests; images are looked at here, where nobody waits."""
        requests = [as_request(row) for row in rows]
        if self.raw:
            requests = [
                replace(request, raw_text=redacted(answered.row[0].decode(), self.redact) or None,
                        raw_image=answered.row[1] or None)
                for request, answered in zip(requests, rows, strict=True)
            ]  # fmt: skip
        return request_table(requests)


def as_request(answered: Answered) -> Request:
    text, image, instruction = answered.row
    words = text.decode()
    width, height, mode = seen(image) if image else (None, None, None)
    return Request(
        time=answered.time,
        request_id=answered.request_id,
        embedding=answered.vector,
        modality="composed" if text and image else "image" if image else "text",
        model_version=str(answered.version),
        instruction=instruction.decode() or None,
        language=script(words) if words else None,
        text_length=len(words) if words else None,
        image_width=width,
        image_height=height,
        image_mode=mode,
        latency_ms=answered.milliseconds,
    )


def redacted(text: str, patterns: Sequence[str]) -> str:
    """Returns the text with an ellipsis in place of all that matches."""
    for pattern in patterns:
        text = re.sub(pattern, "\N{HORIZONTAL ELLIPSIS}", text)
    return text


def seen(image: bytes) -> tuple[int | None, int | None, str | None]:
    """Returns width, height and mode of an encoded image by its header, None for each if that cannot be read."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.width, opened.height, opened.mode
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return None, None, None


def script(text: str) -> str:
    """Returns the script of most letters, such as `latin` or `cjk`, in place of the language; empty for none."""
    letters = [character for character in text if character.isalpha()][:LETTERS]
    names = Counter(unicodedata.name(letter, "").partition(" ")[0].lower() for letter in letters)
    return names.most_common(1)[0][0] if names else ""
