"""What users give to be encoded, as items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from components.corpus.item import Item
from components.errors import UsageError

Input: TypeAlias = str | bytes | Path | Image.Image | Item
"""A text, an image (encoded, as a file, or decoded), or an item, which may have both."""
Instruction: TypeAlias = str | Sequence[str | None] | None


def as_items(inputs: Sequence[Input], instruction: Instruction) -> list[Item]:
    """Returns an item for each input; an item that has an instruction of its own keeps it.

    Raises `UsageError` if an input is none, or if there are several instructions and not one for each input.
    """
    instructions = [instruction] * len(inputs) if instruction is None or isinstance(instruction, str) else instruction
    if len(instructions) != len(inputs):
        raise UsageError(
            f"{len(instructions)} instructions for {len(inputs)} inputs", "Give one for all, or one for each."
        )
    return [
        item if item.instruction else replace(item, instruction=words)
        for item, words in zip(map(as_item, inputs, range(1, len(inputs) + 1)), instructions, strict=True)
    ]


def as_item(given: Input, position: int) -> Item:
    match given:
        case Item():
            return given
        case str():
            return Item(text=given)
        case bytes() | Path() | Image.Image():
            return Item(image=given)
    raise UsageError(
        f"item {position} is a {type(given).__name__}",
        "Give text, an image (bytes, a path or of Pillow), or an Item that has both.",
    )
