"""The training set as numbers: every different text and image once, and the pairs as positions among them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.corpus import read_pairs, task_names
from components.corpus.item import Item
from components.errors import UsageError

NONE = -1
TEXT, IMAGE, INSTRUCTION = range(3)
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """`queries[task]` and `positives[task]` are `(rows, 3)` int32: text, image, instruction; -1 for none."""

    texts: list[str]
    images: list[Path]
    queries: dict[str, NDArray[np.int32]]
    positives: dict[str, NDArray[np.int32]]

    @property
    def tasks(self) -> list[str]:
        return list(self.queries)

    def rows(self, task: str) -> int:
        return len(self.queries[task])

    def item(self, row: Sequence[int]) -> Item:
        """Returns the item whose parts stand at these positions."""
        text, image, instruction = row
        return Item(
            text=None if text == NONE else self.texts[text],
            image=None if image == NONE else self.images[image],
            instruction=None if instruction == NONE else self.texts[instruction],
        )

    def content(self, row: Sequence[int]) -> dict[str, str]:
        """Returns what the positions of one item stand for, by name."""
        item = self.item(row)
        parts = {"text": item.text, "image": item.image, "instruction": item.instruction}
        return {name: str(part) for name, part in parts.items() if part is not None}


def modalities(positions: NDArray[np.int32]) -> Integers:
    """Returns `(n,)` of `positions (n, 3)`: 1 for a text, 2 for an image, 3 for both."""
    numbers: Integers = (positions[:, [TEXT, IMAGE]] != NONE) @ np.array([1, 2])
    return numbers


def row_numbers(positions: NDArray[np.int32]) -> Integers:
    """Returns `(n,)` of `positions (n, parts)`: the same number for equal rows, each below `n`."""
    numbers: Integers = np.unique(positions, axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def require_known(named: Iterable[str], tasks: Collection[str], place: str) -> None:
    """Raises `UsageError` that names the nearest tasks if one that `place` names is no task of the data set."""
    for name in named:
        if name not in tasks:
            close = ", ".join(difflib.get_close_matches(name, tasks)) or ", ".join(tasks) or "none"
            raise UsageError(
                f"{place}: {name}: the data set has no such training task", f"Correct the name: {close}; or remove it."
            )


def read_examples(data: Path) -> Examples:
    """Returns the examples of a data set's training split. Memory grows with the number of pairs, not of pixels."""
    texts: dict[str, int] = {}
    images: dict[Path, int] = {}

    def positions(items: Iterable[Item]) -> NDArray[np.int32]:
        return np.array(
            [
                (
                    texts.setdefault(item.text, len(texts)) if item.text else NONE,
                    images.setdefault(_path(item), len(images)) if item.image is not None else NONE,
                    texts.setdefault(item.instruction, len(texts)) if item.instruction else NONE,
                )
                for item in items
            ],
            np.int32,
        )

    queries, positives = {}, {}
    for task in task_names(data, "train"):
        pairs = list(read_pairs(data, task))
        queries[task] = positions(pair.query for pair in pairs)
        positives[task] = positions(pair.positive for pair in pairs)
    return Examples(list(texts), list(images), queries, positives)


def _path(item: Item) -> Path:
    if not isinstance(item.image, Path):
        raise TypeError("the images of training pairs are files")
    return item.image
