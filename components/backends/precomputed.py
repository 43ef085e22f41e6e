"""Vectors that somebody else computed, given as files: `vectors.npy`, and `items.jsonl`, which names each row's item.

A line of `items.jsonl` has `text`, `image` (a path relative to the data set's root), `video` (a list of such paths) and
`instruction`, each only where the item has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.embedder.embedders import Vectors
from components.embedder.runtime import normalise
from components.errors import EmbedlineError, UsageError
from components.files import atomic_directory

if TYPE_CHECKING:
    from components.corpus.item import ImageSource, Item

ITEMS, VECTORS = "items.jsonl", "vectors.npy"
FIELDS = {"text", "image", "video", "instruction"}


class PrecomputedEmbedder:
    """Looks vectors up by the item's content, image paths relative to `root`; a digest of each item is in memory.

    Raises `UsageError` if the files are not what this module says, or name an item twice.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.name = folder.name
        self.root = root
        self.vectors = _read_vectors(folder / VECTORS)
        self.rows = _read_rows(folder / ITEMS)
        self.dimension = int(self.vectors.shape[1])
        if len(self.rows) != len(self.vectors):
            raise UsageError(
                f"{folder}: {ITEMS} names {len(self.rows)} items, and {VECTORS} has {len(self.vectors)} rows",
                "Write both again.",
            )

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Returns `(n, dimension)` float32, L2-normalised. Raises `EmbedlineError` naming an item without vector."""
        described = [describe(item, self.root) for item in items]
        rows = [self.rows.get(_key(item)) for item in described]
        if None in rows:
            missing = json.dumps(described[rows.index(None)], ensure_ascii=False)
            raise EmbedlineError(
                f"{self.name} has no vector of {missing}",
                f"Compute it too, and write {ITEMS} and {VECTORS} again. Image paths are relative to {self.root}.",
            )
        return normalise(self.vectors[np.array(rows, np.intp)])


def write_precomputed(folder: Path, items: Sequence[Item], vectors: Vectors, root: Path) -> None:
    """Writes the vectors `(n, dimension)` of the items so that `PrecomputedEmbedder` finds them; replaces `folder`.

    Raises `UsageError` if there are not as many vectors as items, or if an image is not a file below `root`.
    """
    if len(items) != len(vectors):
        raise UsageError(f"{len(vectors)} vectors for {len(items)} items", "Give one vector an item.")
    with atomic_directory(folder) as partial:
        with (partial / ITEMS).open("w", encoding="utf-8") as stream:
            for item in items:
                stream.write(json.dumps(describe(item, root), ensure_ascii=False) + "\n")
        np.save(partial / VECTORS, vectors)


def describe(item: Item, root: Path) -> dict[str, Any]:
    """Returns the item as `items.jsonl` has it. Raises `UsageError` if an image is not a file below `root`."""
    fields = {
        "text": item.text,
        "image": _relative(item.image, root) if item.image else None,
        "video": [_relative(frame, root) for frame in item.video],
        "instruction": item.instruction,
    }
    return {name: value for name, value in fields.items() if value}


def _relative(image: ImageSource, root: Path) -> str:
    if not (isinstance(image, Path) and image.absolute().is_relative_to(root.absolute())):
        where = image if isinstance(image, Path) else "an image in memory"
        raise UsageError(f"{where} is not below {root}", "Precomputed vectors are of files in the data set's folder.")
    return image.absolute().relative_to(root.absolute()).as_posix()


def _key(described: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).digest()


def _read_rows(file: Path) -> dict[bytes, int]:
    """Returns the row of each item by its key."""
    rows: dict[bytes, int] = {}
    try:
        with file.open(encoding="utf-8") as stream:
            for row, line in enumerate(stream):
                described = json.loads(line)
                if not isinstance(described, dict) or not described or described.keys() - FIELDS:
                    raise ValueError(f"line {row + 1} is no item of {', '.join(sorted(FIELDS))}")
                if rows.setdefault(_key({name: part for name, part in described.items() if part}), row) != row:
                    raise ValueError(f"line {row + 1} names an item that an earlier line names too")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}", "Write it with `write_precomputed`, or as its docstring says.") from error
    return rows


def _read_vectors(file: Path) -> np.ndarray:
    try:
        vectors: np.ndarray = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file}: {error}", "Write it with `numpy.save`.") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise UsageError(f"{file}: {vectors.dtype} of shape {vectors.shape}", "Write floats, one row an item.")
    return vectors
