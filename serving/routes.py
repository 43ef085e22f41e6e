"""Which version answers: `.embedline/routes.json`, written by releases and read by whatever sends requests on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from components.errors import EmbedlineError, UsageError
from components.files import write_text

ROUTES = "routes.json"
STABLE, TRIAL = "embedder", "challenger"
"""The models of Triton's repository: the champion and the version to go back to; the version under canary or shadow."""
REREAD_SECONDS = 0.2


@dataclass(frozen=True)
class Target:
    """What answers: a model of Triton's repository and a version of it."""

    model: str
    version: int


@dataclass(frozen=True)
class Routes:
    """`canary_share` of the keys are answered by `canary`; `shadow_share` of the requests are copied to `shadow`, whose
    answers no user sees. Both lie between 0 and 1. Raises `UsageError` for another share, or one of no target."""

    stable: Target
    canary: Target | None = None
    canary_share: float = 0.0
    shadow: Target | None = None
    shadow_share: float = 0.0

    def __post_init__(self) -> None:
        for name, target, share in (
            ("canary", self.canary, self.canary_share),
            ("shadow", self.shadow, self.shadow_share),
        ):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} share {share} is no share", "Give a number from 0 to 1.")
            if share and target is None:
                raise UsageError(f"{name} share {share} without a {name}", "Name the version that is to be tried.")


def read_routes(home: Path) -> Routes:
    """Returns the routes of `home` (`.embedline`). Raises `UsageError` before the first deployment, `EmbedlineError` if
    the file is damaged."""
    path = home / ROUTES
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        trials = {name: facts[name] and Target(**facts[name]) for name in ("canary", "shadow")}
        return Routes(**(facts | trials | {"stable": Target(**facts["stable"])}))
    except FileNotFoundError as error:
        raise UsageError("no version is deployed here", "Deploy the champion: `embedline serve`.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise EmbedlineError(
            f"{path} says no routes: {error!r}", "Remove it and deploy the champion again: `embedline deploy VERSION`."
        ) from error


def write_routes(home: Path, routes: Routes) -> None:
    """Replaces the routes of `home`, whole or not at all; readers follow within `REREAD_SECONDS`."""
    write_text(home / ROUTES, json.dumps(asdict(routes), indent=2) + "\n")


class FollowedRoutes:
    """The routes of `home` as they are now: looked at again at most every `REREAD_SECONDS`, read if they changed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seen: tuple[int, int] | None = None
        self.looked = float("-inf")
        self.routes: Routes

    def read(self) -> Routes:
        """Returns the routes. Raises as `read_routes` does."""
        now = time.monotonic()
        if now - self.looked >= REREAD_SECONDS or self.seen is None:
            path = self.home / ROUTES
            state = path.stat() if path.exists() else None
            seen = (state.st_mtime_ns, state.st_ino) if state else None
            if seen is None or seen != self.seen:
                self.routes = read_routes(self.home)
            self.seen, self.looked = seen, now
        return self.routes


def route(routes: Routes, key: str) -> Target:
    """Returns what answers the requests of a key. A growing share moves keys from stable to the canary only.

    The canary is part of what is hashed, so that not the same users try every version.
    """
    if routes.canary is None:
        return routes.stable
    digest = hashlib.sha256(f"{routes.canary.model}/{routes.canary.version}/{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return routes.canary if position < routes.canary_share else routes.stable


def change_routes(home: Path, change: Callable[[Routes | None], Routes]) -> Routes:
    """Writes what `change` makes of the routes of now (None before the first deployment), and returns it; nobody else
    changes them meanwhile."""
    with FileLock(home / "routes.lock"):
        try:
            now = read_routes(home)
        except UsageError:
            now = None
        changed = change(now)
        write_routes(home, changed)
    return changed
