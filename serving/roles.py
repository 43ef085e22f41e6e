"""Serving by role: the registry says which versions, servers hold them, the routes say which one answers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from components.errors import EmbedlineError, UsageError
from components.export.config import Serving
from components.registry import approval, models, promotion, tracking
from components.registry.tracking import Tracking
from components.workspace import STATE
from serving.events import Kind, record
from serving.releases.move import SETTLE_SECONDS, Move, alone, move, routes_now
from serving.releases.places import Bundles, Local, Place, places
from serving.routes import STABLE, Routes, Target
from serving.supervisor.state import find as supervised
from serving.triton import TritonServer

ROLLBACK_SETTLE_SECONDS = 2.0


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
    """Makes the server serve the versions that play a role or are on trial, fetching from the registry what it lacks;
    returns those that play a role."""
    follow(Path(server.home), tracked, [Local(server)], "deployed")
    return served_versions(models.roles(tracked))


def follow_roles(home: Path, tracked: Tracking, urls: Sequence[str] = ()) -> None:
    """Brings a running server, and those at `urls`, to the roles: after a promotion, or after a round that was killed
    between its promotion and this."""
    if urls or TritonServer.find(home):
        follow(home, tracked, places(home, urls), "promoted")


def roll_back(home: Path, reason: str, to: str | None = None, urls: Sequence[str] = ()) -> Mapping[str, str | None]:
    """Makes the previous version champion, or version `to`, which was champion once; running servers follow, and no
    version is on trial any more. Returns the roles."""
    tracked = tracking.prepare(Path())
    roles = promotion.rollback(tracked, reason, to)
    if urls or TritonServer.find(home):
        follow(home, tracked, places(home, urls), "rolled_back", settle_seconds=ROLLBACK_SETTLE_SECONDS)
    return roles


def decide(
    tracked: Tracking, version: str, rejected: bool, by: str, reason: str, urls: Sequence[str] = ()
) -> models.Roles:
    """Makes a version that waits for approval champion, which running servers follow, or sends it away. Returns the
    roles. Raises as `components.registry.approval.approve` does."""
    if rejected:
        return approval.reject(tracked, version, by, reason)
    roles = approval.approve(tracked, version, by, reason)
    follow_roles(STATE, tracked, urls)
    return roles


def follow(
    home: Path, tracked: Tracking, servers: Sequence[Place], kind: Kind, anew: Collection[int] = (),
    settle_seconds: float = SETTLE_SECONDS,
) -> Routes:  # fmt: skip
    """Brings the servers to the roles and returns the routes; a change of champion, and `anew`, are recorded as `kind`.

    A version on trial stays so, unless it has become champion or the champion was rolled back. One that cannot be
    loaded ends its trial and keeps nobody else from being answered.
    """
    held = served_versions(models.roles(tracked))
    stable = Target(STABLE, held[0])

    def keep_trials(now: Routes | None) -> Routes:
        return Routes(stable) if now is None or kind == "rolled_back" else with_stable(now, stable)

    with alone(home), fetching(home, tracked) as bundles:
        before = routes_now(home)
        try:
            after = move(home, servers, bundles, Move(keep_trials, held, anew, settle_seconds))
        except EmbedlineError as error:
            if before is None or not (before.canary or before.shadow):
                raise
            after = move(home, servers, bundles, Move(lambda _: Routes(stable), held, anew, settle_seconds))
            record_ended(home, before, after, error.problem)
    if anew or before is None or before.stable != stable:
        record(home, kind, version=stable.version, servers=[server.url for server in servers])
        if before:
            record_ended(home, before, after, f"version {stable.version} became champion: {kind}")
    return after


def with_stable(routes: Routes, stable: Target) -> Routes:
    """Returns the routes with another champion, which is not on trial any more."""
    if routes.canary and routes.canary.version == stable.version:
        routes = replace(routes, canary=None, canary_share=0.0)
    if routes.shadow and routes.shadow.version == stable.version:
        routes = replace(routes, shadow=None, shadow_share=0.0)
    return replace(routes, stable=stable)


def record_ended(home: Path, before: Routes, after: Routes, reason: str) -> None:
    """Records the trials that are over."""
    if before.canary and after.canary != before.canary:
        record(home, "canary_returned", version=before.canary.version, reason=reason)
    if before.shadow and after.shadow != before.shadow:
        record(home, "shadow_ended", version=before.shadow.version, reason=reason)


@contextmanager
def fetching(home: Path, tracked: Tracking) -> Iterator[Bundles]:
    """Yields what fetches the bundle of a version from the registry, each at most once; they are removed at the end."""
    with tempfile.TemporaryDirectory(dir=home, prefix="fetched.") as folder:

        @cache
        def bundle(version: int) -> Path:
            return models.download(tracked, str(version), Path(folder) / str(version))

        yield bundle


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
