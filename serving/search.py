"""Search by example: an exact nearest-neighbour index over the images of a data set, embedded by the served model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from components.corpus import Item, read_pairs, read_queries, task_names
from components.files import atomic_file


class Encoder(Protocol):
    def encode(self, items: Sequence[Item]) -> np.ndarray: ...


class Entry(NamedTuple):
    """An image that can be found, and what is shown beside it."""

    text: str
    image_path: str


class Hit(NamedTuple):
    """A found image; `score` is the cosine to the query."""

    score: float
    text: str
    image_path: str


@dataclass(frozen=True)
class Index:
    """Entries and their vectors, `(n, dimension)` float32, L2-normalised, row by row."""

    vectors: np.ndarray
    entries: tuple[Entry, ...]


def open_index(
    folder: Path, encoder: Encoder, entries: Callable[[], Sequence[Entry]], fingerprint: str, dataset_digest: str
) -> Index:
    """Returns the index of a data set's entries; it is kept in `folder`, and made if model or data set are new.

    `fingerprint` is that of the model which `encoder` serves. Raises what `encoder.encode` raises.
    """
    path = index_path(folder, fingerprint, dataset_digest)
    if path.exists():
        return read_index(path)
    index = build_index(encoder, entries())
    texts, image_paths = zip(*index.entries, strict=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez(file, vectors=index.vectors, texts=np.array(texts), image_paths=np.array(image_paths))
    return index


def read_index(path: Path) -> Index:
    """Returns an index that was kept."""
    with np.load(path) as saved:
        pairs = zip(saved["texts"].tolist(), saved["image_paths"].tolist(), strict=True)
        return Index(saved["vectors"], tuple(Entry(*pair) for pair in pairs))


def build_index(encoder: Encoder, entries: Sequence[Entry]) -> Index:
    """Returns the index of the images of the entries; an entry that occurs twice is kept once."""
    different = tuple(dict.fromkeys(entries))
    return Index(encoder.encode([Item(image=Path(entry.image_path)) for entry in different]), different)


def search(index: Index, vector: np.ndarray, top: int = 10) -> list[Hit]:
    """Returns the `top` entries nearest to the vector, best first; among equals the earlier entry comes first."""
    scores = index.vectors @ vector
    best = np.argsort(-scores, kind="stable")[:top]
    return [Hit(float(scores[row]), *index.entries[row]) for row in best]


def index_path(folder: Path, fingerprint: str, dataset_digest: str) -> Path:
    """Returns where an index is kept; the name changes with the model and the data set."""
    digest = hashlib.sha256(f"{fingerprint}\0{dataset_digest}".encode()).hexdigest()
    return folder / f"{digest}.npz"


def named_images(data: Path) -> list[Entry]:
    """Returns the images that the data set pairs with a text, each under the text that is most its own.

    A name stands beside its image in several tasks and beside few others; a class label beside many.
    """
    together: dict[Path, Counter[str]] = {}
    uses: Counter[str] = Counter()
    for text, image in _text_image_pairs(data):
        together.setdefault(image, Counter())[text] += 1
        uses[text] += 1

    def own(texts: Counter[str]) -> str:
        return max(texts, key=lambda text: (texts[text] ** 2 / uses[text], texts[text]))

    return [Entry(own(texts), str(image)) for image, texts in together.items()]


def _text_image_pairs(data: Path) -> Iterator[tuple[str, Path]]:
    """Yields (text, image) of every training pair and every right answer that join a bare text and a bare image."""
    for pair in read_pairs(data):
        yield from _bare(pair.query, pair.positive)
    for task in task_names(data, "eval"):
        for query in read_queries(data, "eval", task):
            for position in query.relevant:
                yield from _bare(query.item, query.candidates[position])


def _bare(*items: Item) -> Iterator[tuple[str, Path]]:
    for one, other in permutations(items):
        if one.text and one.image is None and isinstance(other.image, Path) and not other.text:
            yield one.text, other.image
