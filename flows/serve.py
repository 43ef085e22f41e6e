"""Serving by role: the registry says which versions, Triton's repository holds them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import serving
from components import lineage
from components.corpus import Item, Manifest
from components.errors import UsedWrongly
from components.export.config import Serving
from components.registry import models, promotion, tracking
from components.registry.tracking import Tracking
from components.workspace import DATA
from serving import TritonEmbedder, TritonServer, repository
from serving.control import loaded
from serving.search import Hit, named_pictures, open_index
from serving.search import search as nearest


@dataclass(frozen=True)
class Found:
    """The answer to one search: by which model, how long the server took, among how many pictures."""

    query: Item
    hits: Sequence[Hit]
    model: str
    latency_ms: float
    searched: int


def served_versions(roles: Mapping[str, str | None]) -> list[int]:
    """Returns the versions that a server holds ready: the champion first, then the one to go back to.

    Triton answers clients that name no version by the highest one that it has loaded, which must be the champion:
    a previous version of a higher number is loaded only when it is gone back to. Raises `UsedWrongly` before the first
    promotion.
    """
    if not roles["champion"]:
        raise UsedWrongly("there is no champion yet", "Make one with `embedline run`.")
    champion, previous = int(roles["champion"]), int(roles["previous"] or 0)
    return [champion, previous] if 0 < previous < champion else [champion]


def serve_versions(server: TritonServer, tracked: Tracking) -> list[int]:
    """Makes the server serve the versions that play a role, fetching from the registry what it lacks; returns them."""
    versions = served_versions(models.roles(tracked))
    for version in versions:
        if version not in repository.versions(server.repository):
            serving.deploy(server, models.download(tracked, str(version), Path(server.home) / "fetched"), version)
    serving.serve(server, versions)
    return versions


def follow_roles(home: Path, tracked: Tracking) -> None:
    """Brings a running server to the roles if it serves other versions: after a promotion, or after a round that was
    killed between its promotion and this."""
    server = TritonServer.find(home)
    if server and loaded(server) != sorted(served_versions(models.roles(tracked))):
        serve_versions(server, tracked)


@contextmanager
def serve_roles(home: Path, config: Serving) -> Iterator[tuple[TritonServer, list[int]]]:
    """Starts a server on the configured ports and yields it with its versions, the champion first."""
    tracked = tracking.prepare(Path())
    served_versions(models.roles(tracked))
    with TritonServer.start(
        home, config.http_port, config.grpc_port, config.metrics_port, config.startup_seconds
    ) as server:
        yield server, serve_versions(server, tracked)


def roll_back(home: Path, reason: str) -> Mapping[str, str | None]:
    """Makes the previous version champion; a running server follows. Returns the roles."""
    with lineage.lock(Path()):
        tracked = tracking.prepare(Path())
        roles = promotion.rollback(tracked, reason)
        if server := TritonServer.find(home):
            serve_versions(server, tracked)
    return roles


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
        index = open_index(home / "index", embedder, lambda: named_pictures(DATA), fingerprint, digest)
        began = time.perf_counter()
        vector = embedder.encode([query])[0]
        latency_ms = (time.perf_counter() - began) * 1000
    return Found(
        query, nearest(index, vector, top), f"{models.MODEL} version {champion}", latency_ms, len(index.entries)
    )


@contextmanager
def served(home: Path, config: Serving, tracked: Tracking) -> Iterator[TritonServer]:
    """Yields the running server, or one on free ports that serves the roles and is stopped afterwards."""
    if server := TritonServer.find(home):
        yield server
        return
    with TritonServer.start(home, 0, 0, 0, config.startup_seconds) as server:
        serve_versions(server, tracked)
        yield server
