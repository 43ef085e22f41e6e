"""`embedline deploy`: the champion anew, or a version on trial, as a canary or in the shadow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from components.corpus import Manifest
from components.corpus.manifest import MANIFEST
from components.errors import Refused, UsageError
from components.registry import models, tracking
from components.registry.tracking import Tracking
from components.workspace import DATA
from serving.client import TritonEmbedder
from serving.events import Kind, record
from serving.releases import canary, shadow
from serving.releases.move import Move, alone, move
from serving.releases.places import Place, places
from serving.roles import fetching, follow, served_versions
from serving.routes import TRIAL, Routes, Target
from serving.search import index_path, named_images, open_index

Trial = Literal["canary", "shadow"]
EVENTS: dict[Trial, tuple[Kind, Kind]] = {
    "canary": ("canary_started", "canary_returned"),
    "shadow": ("shadow_started", "shadow_ended"),
}


@dataclass(frozen=True)
class Release:
    """The routes after a release, and the servers that follow them."""

    routes: Routes
    servers: list[str]


def release(
    home: Path, version: int | None, canary: float | None, shadow: float | None, urls: Sequence[str] = ()
) -> Release:
    """Puts a version on trial for a share of the users (`canary`) or of the requests (`shadow`), or deploys the
    champion again where neither is given; no `version` is the champion.

    Raises `UsageError` for both, and as `try_version` and `deploy` do.
    """
    if canary is not None and shadow is not None:
        raise UsageError("a version is a canary or a shadow", "Give one of --canary and --shadow.")
    if version is None:
        champion = models.role(tracking.prepare(Path()), "champion")
        if champion is None:
            raise UsageError("there is no champion to deploy", "Make one: `embedline run`.")
        version = int(champion)
    if canary is not None:
        return try_version(home, version, "canary", canary, urls)
    if shadow is not None:
        return try_version(home, version, "shadow", shadow, urls)
    return deploy(home, version, urls)


def deploy(home: Path, version: int, urls: Sequence[str] = ()) -> Release:
    """Deploys the champion again on every server: loaded anew, proved, the versions without a role unloaded.

    Raises `Refused` for another version: only the gate makes a champion.
    """
    tracked = tracking.prepare(Path())
    champion = _champion(tracked, version)
    if version != champion:
        raise Refused(
            f"version {version} is not the champion, version {champion} is",
            f"Try it on some users: `embedline deploy {version} --canary 0.1`; make it champion by the gate: "
            "`embedline run`; go back to a former champion: `embedline rollback --to VERSION`.",
        )
    servers = places(home, urls)
    return _release(follow(home, tracked, servers, "deployed", anew=[champion]), servers)


def try_version(home: Path, version: int, trial: Trial, share: float, urls: Sequence[str] = ()) -> Release:
    """Puts any registered version on trial for a share of the keys (canary) or of the requests (shadow); a share of 0
    ends its trial, and a version that was on this trial before leaves it.

    Raises `UsageError` for the champion, for what is no share, and for the end of a trial that is not under way.
    """
    tracked = tracking.prepare(Path())
    if version == _champion(tracked, version):
        raise UsageError(f"version {version} is the champion: everybody is answered by it", "Name another version.")
    servers = places(home, urls)
    if share:
        (home / (canary if trial == "canary" else shadow).REPORT).unlink(missing_ok=True)
    before, after = _change_trial(home, tracked, servers, version, trial, share)
    started, ended = EVENTS[trial]
    left: Target | None = getattr(before, trial)
    if left and getattr(after, trial) != left:
        record(home, ended, version=left.version, reason="by hand" if not share else f"version {version} follows")
    if share:
        record(home, started, version=version, share=share, servers=[server.url for server in servers])
    if trial == "shadow" and share:
        make_indexes(home, tracked, servers[0].url, after)
    return _release(after, servers)


def make_indexes(home: Path, tracked: Tracking, url: str, routes: Routes) -> None:
    """Makes the index of the shadow beside that of stable, where somebody has searched with stable, so that what both
    find is compared."""
    if routes.shadow is None or not (DATA / MANIFEST).exists():
        return
    digest = Manifest.read(DATA).digest
    stable, trial = (
        models.facts(tracked, str(target.version))["model_fingerprint"] for target in (routes.stable, routes.shadow)
    )
    if not index_path(home / "index", stable, digest).exists():
        return
    embedder = TritonEmbedder(url, routes.shadow.model, routes.shadow.version)
    open_index(home / "index", embedder, lambda: named_images(DATA), trial, digest)
    for version, fingerprint in ((routes.stable.version, stable), (routes.shadow.version, trial)):
        path = shadow.index_of(home, version)
        path.unlink(missing_ok=True)
        os.link(index_path(home / "index", fingerprint, digest), path)


def _champion(tracked: Tracking, version: int) -> int:
    models.facts(tracked, str(version))
    return served_versions(models.roles(tracked))[0]


def _change_trial(
    home: Path, tracked: Tracking, servers: Sequence[Place], version: int, trial: Trial, share: float
) -> tuple[Routes | None, Routes]:
    """Returns the routes before and after."""
    held = served_versions(models.roles(tracked))
    seen: list[Routes | None] = []

    def change(now: Routes | None) -> Routes:
        seen.append(now)
        return with_trial(now, version, trial, share)

    with alone(home), fetching(home, tracked) as bundles:
        after = move(home, servers, bundles, Move(change, held))
    return seen[-1], after


def with_trial(now: Routes | None, version: int, trial: Trial, share: float) -> Routes:
    """Returns the routes with the version on trial, or without where the share is 0. Raises as `try_version` does."""
    if now is None:
        raise UsageError("no champion is deployed here", "Deploy it first: `embedline serve`.")
    present: Target | None = getattr(now, trial)
    if not share and (present is None or present.version != version):
        raise UsageError(
            f"version {version} is no {trial}" + (f", version {present.version} is" if present else ""),
            "`embedline routes` shows what is on trial.",
        )
    changes: dict[str, Target | float | None] = {
        trial: Target(TRIAL, version) if share else None,
        f"{trial}_share": share,
    }
    change: Callable[..., Routes] = replace
    return change(now, **changes)


def _release(routes: Routes, servers: Sequence[Place]) -> Release:
    return Release(routes, [server.url for server in servers])
