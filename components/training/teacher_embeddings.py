"""The teacher's vectors of every text and image of the training set, computed once and read memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.corpus import Item
from components.embedder import Embedder
from components.training.examples import Examples

FILES = ("texts.npy", "images.npy")
CHUNK = 2048


@dataclass(frozen=True)
class TeacherEmbeddings:
    """`texts (n, dim)` and `images (m, dim)`, float32, L2-normalised, in the order of `Examples`."""

    texts: NDArray[np.float32]
    images: NDArray[np.float32]


def write_teacher_embeddings(teacher: Embedder, examples: Examples, directory: Path) -> None:
    """Writes the vectors of all texts and images below `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    items = ([Item(text=text) for text in examples.texts], [Item(image=image) for image in examples.images])
    for name, parts in zip(FILES, items, strict=True):
        vectors = np.lib.format.open_memmap(directory / name, "w+", np.float32, (len(parts), teacher.dimension))
        for start in range(0, len(parts), CHUNK):
            vectors[start : start + CHUNK] = teacher.encode(parts[start : start + CHUNK])
        vectors.flush()


def read_teacher_embeddings(directory: Path) -> TeacherEmbeddings:
    texts, images = (np.load(directory / name, mmap_mode="r") for name in FILES)
    return TeacherEmbeddings(texts, images)
