"""Pairs to train on from recorded traffic: what a user asked, and the hit that the user took for it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from components.files import atomic_file
from components.traffic.window import read_rows
from components.workspace import FEEDBACK, TRAFFIC

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}


@dataclass(frozen=True)
class Labelled:
    """A text and the image, encoded, that a user has found by it or it by the image."""

    text: str
    image: bytes


def labelled(home: Path) -> Iterator[Labelled]:
    """Yields a pair for each recorded request whose user took a hit, where the content of both was kept and one is a
    text and the other an image. The taken hits are held in memory, requests are not.

    Raises as `read_window` does; folders that are not there hold none.
    """
    traffic, feedback = home / TRAFFIC.name, home / FEEDBACK.name
    if not (traffic.is_dir() and feedback.is_dir()):
        return
    taken = {}
    for row in sorted(
        read_rows(feedback, ["time", "request_id", "taken", "text", "image"]), key=lambda row: row["time"]
    ):
        taken[row["request_id"]] = row  # the last word of a user counts
    hits = {name: row for name, row in taken.items() if row["taken"] and (row.get("text") or row.get("image"))}
    for row in read_rows(traffic, ["request_id", "raw_text", "raw_image"]):
        if (hit := hits.get(row["request_id"])) is None:
            continue
        texts = [text for text in (row.get("raw_text"), hit.get("text")) if text]
        images = [image for image in (row.get("raw_image"), hit.get("image")) if image]
        if len(texts) == len(images) == 1:
            yield Labelled(texts[0], images[0])


def keep(pairs: Iterator[Labelled], folder: Path) -> int:
    """Writes the pairs as `NAME.txt` beside `NAME.png`, which `corpus.additions` reads; returns how many are new.

    A pair has the name of its content, so that it is written once. What is no image is left out.
    """
    new = 0
    for pair in pairs:
        if (suffix := _suffix(pair.image)) is None:
            continue
        words = " ".join(pair.text.split())
        name = hashlib.sha256(pair.image + b"\0" + words.encode()).hexdigest()[:16]
        image = (folder / name).with_suffix(suffix)
        if image.exists():
            continue
        with atomic_file(image.with_suffix(".txt")) as partial:
            partial.write_text(words + "\n", encoding="utf-8")
        with atomic_file(image) as partial:  # last: what has no text beside it would be another kind of folder
            partial.write_bytes(pair.image)
        new += 1
    return new


def _suffix(image: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return SUFFIXES.get(str(opened.format))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
        return None
