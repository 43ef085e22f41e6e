"""Search by example: an exact nearest-neighbour index over the pictures of a data set, embedded by the served model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from components.corpus.item import Item


class Encoder(Protocol):
    def encode(self, items: Sequence[Item]) -> np.ndarray: ...


class Entry(NamedTuple):
    """A picture that can be found, and what is shown beside it."""

    text: str
    image_path: str


class Hit(NamedTuple):
    """A found picture; `score` is the cosine to the query."""

    score: float
    text: str
    image_path: str


@dataclass(frozen=True)
class Index:
    """Entries and their vectors, `(n, dimension)` float32, L2-normalised, row by row."""

    vectors: np.ndarray
    entries: tuple[Entry, ...]


def open_index(
    folder: Path, encoder: Encoder, entries: Sequence[Entry], fingerprint: str, dataset_digest: str
) -> Index:
    """Returns the index of the entries; it is kept in `folder`, and made if model, data set or entries are new.

    `fingerprint` is that of the model which `encoder` serves. Raises what `encoder.encode` raises.
    """
    path = folder / f"{index_key(entries, fingerprint, dataset_digest)}.npz"
    if path.exists():
        with np.load(path) as saved:
            pairs = zip(saved["texts"].tolist(), saved["image_paths"].tolist(), strict=True)
            return Index(saved["vectors"], tuple(Entry(*pair) for pair in pairs))
    index = build_index(encoder, entries)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        texts, image_paths = zip(*index.entries, strict=True)
        np.savez(file, vectors=index.vectors, texts=np.array(texts), image_paths=np.array(image_paths))
    partial.replace(path)
    return index


def build_index(encoder: Encoder, entries: Sequence[Entry]) -> Index:
    """Returns the index of the pictures of the entries; an entry that occurs twice is kept once."""
    different = tuple(dict.fromkeys(entries))
    return Index(encoder.encode([Item(image=Path(entry.image_path)) for entry in different]), different)


def search(index: Index, vector: np.ndarray, top: int = 10) -> list[Hit]:
    """Returns the `top` entries nearest to the vector, best first; among equals the earlier entry comes first."""
    scores = index.vectors @ vector
    best = np.argsort(-scores, kind="stable")[:top]
    return [Hit(float(scores[row]), *index.entries[row]) for row in best]


def index_key(entries: Sequence[Entry], fingerprint: str, dataset_digest: str) -> str:
    """Returns a name for the index that changes with the model, the data set and the entries."""
    total = hashlib.sha256(f"{fingerprint}\0{dataset_digest}".encode())
    for entry in entries:
        total.update(f"\0{entry.text}\0{entry.image_path}".encode())
    return total.hexdigest()
