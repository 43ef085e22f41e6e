"""Seeded samples of a data set's items, so that every modality is there and the same items come again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image

from components.corpus import Item, read_pairs, task_names
from components.embedder.runtime import load_image

SEED = 0
IMAGES_AT_ONCE = 32
ROWS_A_TASK = 2000
Modality = Literal["text", "image", "composed"]
T = TypeVar("T")


def modality(item: Item) -> Modality:
    if item.image is None:
        return "text"
    return "composed" if item.text else "image"


def choose(things: Sequence[T], most: int) -> list[T]:
    """Returns at most `most` of the things, in their order; the same ones at every call."""
    chosen = random.Random(SEED).sample(range(len(things)), min(most, len(things)))
    return [things[position] for position in sorted(chosen)]


def training_items(data: Path) -> list[Item]:
    """Returns the different items of the first `ROWS_A_TASK` pairs of every training task."""
    pairs = (pair for task in task_names(data, "train") for pair in islice(read_pairs(data, task), ROWS_A_TASK))
    return list(dict.fromkeys(item for pair in pairs for item in (pair.query, pair.positive)))


def of_each_modality(items: Iterable[Item], most: int) -> list[Item]:
    """Returns at most `most` items of each modality."""
    found: dict[Modality, list[Item]] = {"text": [], "image": [], "composed": []}
    for item in items:
        found[modality(item)].append(item)
    return [item for group in found.values() for item in choose(group, most)]


def image_batches(items: Iterable[Item], most: int) -> Iterator[list[Image.Image]]:
    """Yields at most `most` different images of the items, decoded, some at a time."""
    images = choose(list(dict.fromkeys(item.image for item in items if item.image is not None)), most)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        yield [load_image(image) for image in images[start : start + IMAGES_AT_ONCE]]
