"""Scenes composed of several emoji on a coloured ground, and the questions that one can ask about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from PIL import Image

from components.corpus.sources.emoji.characters import Emoji

COLOURS = {
    "red": (214, 69, 65),
    "orange": (240, 150, 60),
    "yellow": (245, 215, 90),
    "green": (90, 170, 90),
    "blue": (80, 130, 210),
    "purple": (150, 100, 190),
    "pink": (240, 160, 190),
    "brown": (140, 100, 70),
    "grey": (150, 150, 150),
    "white": (255, 255, 255),
}
NUMBERS = ("one", "two", "three", "four", "five", "six")
KINDS = ("single", "copies", "row")


@dataclass(frozen=True)
class Question:
    """A question about a scene; `answer` is a text, of the kind that `skill` names."""

    skill: str
    text: str
    answer: str


@dataclass(frozen=True)
class Scene:
    """An image, what it asks, and where each named thing lies in it (left, upper, right, lower, in pixels)."""

    code: str
    image: Image.Image
    questions: tuple[Question, ...]
    boxes: tuple[tuple[Emoji, tuple[int, int, int, int]], ...]


def compose(
    emoji: Sequence[Emoji], images: dict[Emoji, Image.Image], count: int, size: int, prefix: str, random: Random
) -> Iterator[Scene]:
    """Yields `count` scenes of `(size, size)` RGB pixels, in turn of one thing, copies of one, a row of several."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        colour = random.choice(list(COLOURS))
        if kind == "copies":
            things = [random.choice(emoji)] * random.randint(1, len(NUMBERS))
        else:
            things = random.sample(emoji, 1 if kind == "single" else random.randint(2, 3))
        canvas = Image.new("RGB", (size, size), COLOURS[colour])
        cells = random.sample(range(9), len(things)) if kind == "copies" else range(len(things))
        boxes = []
        for thing, cell in zip(things, cells, strict=True):
            box = _place(kind, cell, len(things), size, random)
            side = box[2] - box[0]
            scaled = images[thing].resize((side, side), Image.Resampling.BILINEAR)
            canvas.paste(scaled, box[:2], scaled)
            boxes.append((thing, box))
        yield Scene(
            f"{prefix}-{number:04d}",
            canvas,
            tuple(_questions(kind, things, colour)),
            () if kind == "copies" else tuple(boxes),
        )


def _place(kind: str, cell: int, things: int, size: int, random: Random) -> tuple[int, int, int, int]:
    columns = {"single": 1, "copies": 3, "row": things}[kind]
    width = size // columns
    side = int(min(width, size * 0.75) * random.uniform(0.7, 1.0))
    left = (cell % columns) * width + random.randint(0, width - side)
    rows = 3 if kind == "copies" else 1
    height = size // rows
    top = (cell // columns) * height + random.randint(0, height - side)
    return left, top, left + side, top + side


def _questions(kind: str, things: Sequence[Emoji], colour: str) -> Iterator[Question]:
    name = things[0].name
    if kind == "single":
        yield Question("what", "What is in the picture?", name)
        yield Question("colour", f"What colour is the ground behind the {name}?", colour)
    elif kind == "copies":
        yield Question("count", f"How many times does the picture show: {name}?", NUMBERS[len(things) - 1])
        yield Question("colour", f"What colour is the ground behind the {name}?", colour)
    else:
        for left, right in pairwise(things):
            yield Question("left", f"What is directly to the left of the {right.name}?", left.name)
