"""Teachers' vectors of every different item of the training set, computed once and read memory-mapped.

Stored with the data in the manner of Vasu et al., MobileCLIP (2024): of each image as it is, or of several changes of
it, which are stored too, so that the student sees just what the teachers saw.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.corpus import Item
from components.embedder import Embedder
from components.embedder.runtime import load_image, square
from components.training.augmentation import augment, changes, not_flipped
from components.training.config import TeacherEmbeddings as Settings
from components.training.examples import IMAGE, NONE, Examples
from components.training.losses import TeacherTargets

CHUNK = 2048
CHANGES = "changes.npy"


@dataclass(frozen=True)
class TeacherEmbeddings:
    """`teachers[t] (rows, dimension of t)` float32, L2-normalised: of each of `items (n, 3)` a row for every view.

    `changes (images, views, 11)` are those of `augmentation.changes`; None where images are as they are.
    """

    items: NDArray[np.int32]
    teachers: list[NDArray[np.float32]]
    changes: Tensor | None

    @property
    def dimensions(self) -> list[int]:
        return [vectors.shape[1] for vectors in self.teachers]

    def __call__(self, positions: Tensor, views: Tensor) -> list[Tensor]:
        """Returns each teacher's vectors, `(n, dimension)`, of `positions (n, 3)`, their images in the views of
        `views (images,)`; zeros of what is absent. Raises `KeyError` for an item that is not of the training set."""
        wanted = positions.numpy()
        absent = (wanted == NONE).all(1)
        place = self._lookup(wanted)
        if not (absent | (place != NONE)).all():
            raise KeyError("an item that the teachers were not asked about")
        rows = self._first_rows[place]
        images = positions[:, IMAGE].numpy()
        rows[images != NONE] += views.numpy()[images[images != NONE]]
        return [torch.from_numpy(np.where(absent[:, None], np.float32(0), vectors[rows])) for vectors in self.teachers]

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.items)

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        """`(n,)` where each item's vectors begin: an item with an image has one for every view."""
        views = 1 if self.changes is None else self.changes.shape[1]
        counts = np.where(self.items[:, IMAGE] != NONE, views, 1)
        return np.cumsum(counts) - counts


class Lookup:
    """Finds items among known ones, `(n, 3)` int32 in ascending order, each once, whatever the size of their numbers.

    Two parts of an item fit into one 64-bit number; a third does not, and a pair's rank among the known pairs stands
    for the pair.
    """

    def __init__(self, known: NDArray[np.int32]) -> None:
        pairs = _joined(known[:, 0], known[:, 1])
        self.pairs = np.unique(pairs)
        self.keys = _joined(np.searchsorted(self.pairs, pairs), known[:, 2])

    def __call__(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns `(m,)` the row of each of `wanted (m, 3)` among the known ones, -1 where it is none of them."""
        ranks = _positions(self.pairs, _joined(wanted[:, 0], wanted[:, 1]))
        rows = _positions(self.keys, _joined(ranks, wanted[:, 2]))
        return np.where(ranks == NONE, NONE, rows)


def targets_of(vectors: Sequence[tuple[Tensor, Tensor, Tensor | None]], rows: slice) -> tuple[TeacherTargets, ...]:
    """Returns what each teacher says of some rows of a batch, from its `(queries, positives, negatives)`."""
    return tuple(
        TeacherTargets(queries[rows], positives[rows], None if negatives is None else negatives[rows])
        for queries, positives, negatives in vectors
    )


def different_items(examples: Examples) -> NDArray[np.int32]:
    """Returns `(n, 3)` in ascending order: every different query and positive."""
    different: NDArray[np.int32] = np.unique(
        np.concatenate([*examples.queries.values(), *examples.positives.values()]), axis=0
    )
    return different


def write_teacher_embeddings(
    teachers: Sequence[Embedder], examples: Examples, settings: Settings, directory: Path
) -> None:
    """Writes the changes of the images, if there are any, and a file for each teacher, below `directory`."""
    items = different_items(examples)
    directory.mkdir(parents=True, exist_ok=True)
    stored = None
    if settings.views:
        fixed = not_flipped(examples, settings.no_flip_tasks)
        seeds = [settings.seed * 1_000_003 + view for view in range(settings.views)]
        stored = torch.stack([changes(fixed, settings.augmentation, seed) for seed in seeds], 1)
        np.save(directory / CHANGES, stored.numpy())
    with tempfile.TemporaryDirectory() as folder:
        images = [examples.images] if stored is None else _changed(examples.images, stored, Path(folder))
        asked = [item for row in items.tolist() for item in _views(examples.item(row), row[IMAGE], images)]
        for number, teacher in enumerate(teachers):
            shape = (len(asked), teacher.dimension)
            vectors = np.lib.format.open_memmap(directory / f"{number}.npy", "w+", np.float32, shape)
            for start in range(0, len(asked), CHUNK):
                vectors[start : start + CHUNK] = teacher.encode(asked[start : start + CHUNK])
            vectors.flush()


def read_teacher_embeddings(directory: Path, examples: Examples) -> TeacherEmbeddings:
    files = sorted((file for file in directory.glob("*.npy") if file.name != CHANGES), key=lambda file: int(file.stem))
    stored = directory / CHANGES
    return TeacherEmbeddings(
        items=different_items(examples),
        teachers=[np.load(file, mmap_mode="r") for file in files],
        changes=torch.from_numpy(np.load(stored)) if stored.is_file() else None,
    )


def _joined(high: NDArray[np.integer], low: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns `(n,)` one number for each two 32-bit ones, in their order."""
    return (high.astype(np.int64) << 32) + (low.astype(np.int64) + 2**31)


def _positions(ordered: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns `(n,)` where each of `wanted` stands in `ordered`, -1 where it does not."""
    places = np.searchsorted(ordered, wanted).clip(max=max(0, len(ordered) - 1))
    return np.where(ordered[places] == wanted, places, NONE) if len(ordered) else np.full(len(wanted), NONE)


def _views(item: Item, image: int, images: Sequence[Sequence[Path]]) -> Iterator[Item]:
    """Yields an item without an image as it is, else one for every view of image number `image`."""
    if image == NONE:
        yield item
    else:
        for view in images:
            yield replace(item, image=view[image])


def _changed(images: Sequence[Path], stored: Tensor, folder: Path) -> list[list[Path]]:
    """Writes every view of every image below `folder`; returns the files, view by view."""
    files = [[folder / f"{number}-{view}.png" for number in range(len(images))] for view in range(stored.shape[1])]
    for number, file in enumerate(images):
        image = load_image(file)
        pixels = torch.from_numpy(np.array(square(image, max(image.size)))).permute(2, 0, 1).float()[None] / 255
        for view, file in enumerate(column[number] for column in files):
            changed = augment(pixels, stored[number, view : view + 1])[0].clamp(0, 1)
            Image.fromarray((changed.permute(1, 2, 0) * 255).round().byte().numpy()).save(file, compress_level=1)
    return files
