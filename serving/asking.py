"""The images of the data set that are nearest to a query: by the champion on its server, or by any other model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.backends.directory import opened
from components.corpus import Item, Manifest
from components.embedder import Embedder
from components.embedder.runtime import UnreadableImage, load_image
from components.errors import UsageError
from components.export.config import Serving
from components.registry import models, tracking
from components.workspace import DATA
from serving.client import TritonEmbedder, open_model
from serving.roles import served, served_versions
from serving.search import Hit, named_images, open_index, search

BATCH_SIZE = 64


@dataclass(frozen=True)
class Found:
    """The answer to one search: by which model, how long its encoding took, among how many images."""

    query: Item
    hits: Sequence[Hit]
    model: str
    latency_ms: float
    searched: int


def search_served(
    home: Path, config: Serving, text: str | None, image: Path | None, instruction: str | None, top: int
) -> Found:
    """Asks the champion on the running server; where none runs, on one that is started for this question."""
    tracked = tracking.prepare(Path())
    champion = served_versions(models.roles(tracked))[0]
    query = Item(text, image, instruction=instruction)
    with served(home, config, tracked) as server:
        embedder = TritonEmbedder(server.url, version=champion)
        fingerprint = models.facts(tracked, str(champion))["model_fingerprint"]
        digest = Manifest.read(DATA).digest
        index = open_index(home / "index", embedder, lambda: named_images(DATA), fingerprint, digest)
        began = time.perf_counter()
        vector = embedder.encode([query])[0]
        latency_ms = (time.perf_counter() - began) * 1000
    return Found(
        query, search(index, vector, top), f"{tracked.model} version {champion}", latency_ms, len(index.entries)
    )


def search_with(
    home: Path, model: str, text: str | None, image: Path | None, instruction: str | None, top: int
) -> Found:
    """Asks any model that `open_model` opens, such as `models:/NAME/3`, without a server."""
    found, fingerprint = open_model(model, BATCH_SIZE, DATA)
    embedder = opened(found)
    if not isinstance(embedder, Embedder):
        raise UsageError(f"{model} gives an item several vectors", "Search with a model that gives one.")
    try:
        query = Item(text, image and load_image(image), instruction=instruction)
    except UnreadableImage as error:
        raise UsageError(f"{image}: {error}", "Name another image.") from error
    index = open_index(home / "index", embedder, lambda: named_images(DATA), fingerprint, Manifest.read(DATA).digest)
    began = time.perf_counter()
    vector = embedder.encode([query])[0]
    latency_ms = (time.perf_counter() - began) * 1000
    return Found(query, search(index, vector, top), found.name, latency_ms, len(index.entries))
