"""Item, Pair and Query: the three data classes that travel between components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

ImageSource = Path | bytes | Image.Image


@dataclass(frozen=True)
class Item:
    """One request for an embedding: text, image, video frames, or several of them, and an instruction."""

    text: str | None = None
    image: ImageSource | None = None
    video: tuple[ImageSource, ...] = ()
    instruction: str | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.image or self.video)


@dataclass(frozen=True)
class Pair:
    """A training row: a query, what it should find, and optionally what it should not."""

    query: Item
    positive: Item
    negatives: tuple[Item, ...] = ()


@dataclass(frozen=True)
class Query:
    """A retrieval question: candidates, and the grade of each relevant one by its position among them."""

    item: Item
    candidates: Sequence[Item]
    relevant: dict[int, float] = field(default_factory=dict)
