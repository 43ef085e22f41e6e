"""Numbered concepts, each with an image and words, and embedders whose vectors are known from the number."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.corpus import Item
from components.embedder import Embedder, Vectors
from components.embedder.runtime import load_image
from components.evaluation import Suite, evaluate, read_suite
from components.evaluation.probes import probe
from components.evaluation.vectors import Side, cached_vectors
from components.scores import Scores
from tests.evaluation.conftest import CHUNK, CONFIG, MODEL, Rows, row, write_data

CONCEPTS = 36
IMAGES = [f"{number}.png" for number in range(CONCEPTS)]
Measured = Callable[..., dict[str, float]]
WriteSuite = Callable[..., Suite]


class PartsEmbedder:
    """The sum of what a test gives a text, an image's number and an instruction, each a vector or nothing.

    An item of which nothing is left gets a vector that is orthogonal to all concepts.
    """

    name, dimension = "parts", CONCEPTS + 4

    def __init__(
        self,
        text: Callable[[str], Vectors] | None = None,
        image: Callable[[int], Vectors] | None = None,
        instruction: Callable[[str], Vectors] | None = None,
    ) -> None:
        self.text, self.image, self.instruction = text, image, instruction

    def encode(self, items: Sequence[Item]) -> Vectors:
        return np.stack([self.vector(item) for item in items])

    def vector(self, item: Item) -> Vectors:
        total = axis(0) * 0
        if self.text and item.text:
            total += self.text(item.text)
        if self.image and item.image:
            total += self.image(number_of(item))
        if self.instruction and item.instruction:
            total += self.instruction(item.instruction)
        length = np.linalg.norm(total)
        return np.asarray(total / length, np.float32) if length else axis(CONCEPTS + 3)


def axis(place: int) -> Vectors:
    """Returns the unit vector of a concept, or of another direction behind the concepts."""
    vector: Vectors = np.zeros(CONCEPTS + 4, np.float32)
    vector[place] = 1
    return vector


def numbered(text: str) -> Vectors:
    """Returns the axis of the number that a text names, zero if it names none."""
    found = re.search(r"\d+", text)
    return axis(int(found[0])) if found else axis(0) * 0


def number_of(item: Item) -> int:
    """Returns the concept that an image shows: its red tells."""
    assert item.image is not None
    red: int = np.asarray(load_image(item.image))[0, 0, 0]
    return int(red) // 7


def with_image(number: int, answers: Sequence[str], label: int, **changes: Any) -> dict[str, Any]:
    """Returns a row that asks about the image of a concept."""
    return row("", answers, [label], qry_img_path=IMAGES[number], **changes)


def seeking(text: str, number: int, **changes: Any) -> dict[str, Any]:
    """Returns a row that asks for the image of a concept."""
    images = {"tgt_text": [""] * CONCEPTS, "tgt_img_path": IMAGES, "tgt_inst": "Represent the given image."}
    return row(text, [""] * CONCEPTS, [number], **images | changes)


@pytest.fixture
def write_suite(tmp_path: Path) -> WriteSuite:
    """Writes sets of rows beside the images of the concepts, and reads them."""

    def write(sets: Mapping[str, Rows], folder: str = "data") -> Suite:
        images = tmp_path / folder / "images"
        images.mkdir(parents=True)
        for number, image in enumerate(IMAGES):
            Image.new("RGB", (12, 8), (number * 7 + 3, 40, 90)).save(images / image)
        return read_suite(write_data(tmp_path / folder, sets))

    return write


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """Evaluates an embedder on a suite that a probe built, and returns the probe's numbers."""

    def measure(name: str, suite: Suite, embedder: Embedder) -> dict[str, float]:
        scores, sides = scored(suite, embedder, tmp_path / f"cache {len(list(tmp_path.iterdir()))}")
        return probe(name).measure(suite, scores, sides)

    return measure


def scored(suite: Suite, embedder: Embedder, cache: Path) -> tuple[Scores, dict[str, tuple[Side, Side]]]:
    scores = evaluate(embedder, MODEL, suite, CONFIG, cache, lambda _: None)
    sides, _ = cached_vectors(embedder, MODEL.name, MODEL.fingerprint, suite, CHUNK, cache, lambda _: None)
    return scores, sides
