"""Which target answers a request, by the routes of this moment, and when a canary has to go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.errors import UsageError
from serving.gateway.inference import NEWEST
from serving.gateway.openai_api import MODEL
from serving.gateway.refusal import Refusal
from serving.gateway.windows import TargetWindow
from serving.routes import STABLE, FollowedRoutes, Routes, Target, route

JUDGE_EVERY = 16
"""So many requests of a canary are answered between two looks at its window."""
Judge = Callable[[TargetWindow, TargetWindow], str | None]
"""Returns why the canary must go, given what stable and canary did since it began; None as long as it may stay."""


class Router:
    """Follows the routes of `home`. A canary that the judge sends back gets no more requests, until another is named.

    Where no version was ever deployed, as in front of a Triton of somebody else, the highest loaded version answers.
    """

    def __init__(self, home: Path, judge: Judge | None = None) -> None:
        self.followed = FollowedRoutes(home)
        self.judge = judge
        self.windows: dict[Target, TargetWindow] = {}
        self.canary: Target | None = None
        self.returned: tuple[Target, str] | None = None

    @property
    def routes(self) -> Routes:
        try:
            return self.followed.read()
        except UsageError:
            return Routes(Target(STABLE, NEWEST))

    def choose(self, model: str, key: str) -> Target:
        """Returns what answers a request that names `embedder` or `embedder/VERSION`. Raises `Refusal` 404."""
        routes = self.routes
        if model == MODEL:
            target = route(routes, key)
            return routes.stable if self.returned and target == self.returned[0] else target
        name, _, version = model.partition("/")
        known = [target for target in (routes.stable, routes.canary, routes.shadow) if target]
        if name == MODEL and version.isdecimal() and len(version) < 10 and int(version) > 0:
            if routes.stable.version == NEWEST:
                return Target(STABLE, int(version))
            if found := [target for target in known if target.version == int(version)]:
                return found[0]
        raise Refusal(404, f"there is no model {model[:80]!r} here", param="model", code="model_not_found")

    def record(self, target: Target, answered: bool, seconds: float) -> None:
        """Keeps a result of a target; has the canary judged from time to time."""
        window = self.window(target)
        window.add(answered, seconds)
        if self.judge is None or target != self.canary or window.requests % JUDGE_EVERY:
            return
        if reason := self.judge(self.window(self.routes.stable), window):
            self.returned = target, reason

    def window(self, target: Target) -> TargetWindow:
        """Returns what a target did since the present canary began."""
        if self.routes.canary != self.canary:
            self.canary = self.routes.canary
            self.windows.clear()
        return self.windows.setdefault(target, TargetWindow())
