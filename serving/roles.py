"""Serving by role: the registry says which versions, Triton's repository holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from components import lineage
from components.errors import EmbedlineError, UsageError
from components.export.config import Serving
from components.registry import models, promotion, tracking
from components.registry.tracking import Tracking
from serving import control, known_answers, repository
from serving.supervisor.state import find as supervised
from serving.triton import TritonServer


def served_versions(roles: Mapping[str, str | None]) -> list[int]:
    """Returns the versions that a server holds ready: the champion first, then the one to go back to.

    Triton answers clients that name no version by the highest one that it has loaded, which must be the champion:
    a previous version of a higher number is loaded only when it is gone back to. Raises `UsageError` before the first
    promotion.
    """
    if not roles["champion"]:
        raise UsageError("there is no champion yet", "Make one with `embedline run`.")
    champion, previous = int(roles["champion"]), int(roles["previous"] or 0)
    return [champion, previous] if 0 < previous < champion else [champion]


def serve_versions(server: TritonServer, tracked: Tracking) -> list[int]:
    """Makes the server serve the versions that play a role, fetching from the registry what it lacks; returns them."""
    versions = served_versions(models.roles(tracked))
    for version in versions:
        is_known = known_answers.folder(server.repository, version).exists()
        if version not in repository.versions(server.repository) or not is_known:
            control.deploy(server, models.download(tracked, str(version), Path(server.home) / "fetched"), version)
    control.serve(server, versions)
    return versions


def follow_roles(home: Path, tracked: Tracking) -> None:
    """Brings a running server to the roles if it serves other versions: after a promotion, or after a round that was
    killed between its promotion and this."""
    server = TritonServer.find(home)
    if server and control.loaded(server) != sorted(served_versions(models.roles(tracked))):
        serve_versions(server, tracked)


def roll_back(home: Path, reason: str) -> Mapping[str, str | None]:
    """Makes the previous version champion; a running server follows. Returns the roles."""
    with lineage.lock(Path()):
        tracked = tracking.prepare(Path())
        roles = promotion.rollback(tracked, reason)
        if server := TritonServer.find(home):
            serve_versions(server, tracked)
    return roles


@contextmanager
def served(home: Path, config: Serving, tracked: Tracking) -> Iterator[TritonServer]:
    """Yields the running server, or one on free ports that serves the roles and is stopped afterwards.

    Raises `EmbedlineError` while a supervisor is restarting the server: a second one would be in its way.
    """
    if server := TritonServer.find(home):
        yield server
        return
    if supervised(home):
        raise EmbedlineError(
            "the server of this workspace is being started", "ask again in some seconds; see `embedline serve status`"
        )
    with TritonServer.start(home, 0, 0, 0, config.startup_seconds, cache_bytes=config.response_cache_bytes) as server:
        serve_versions(server, tracked)
        yield server
