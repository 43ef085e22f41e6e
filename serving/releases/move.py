"""From some routes to others: on every server or on none, proved before anybody is answered, without a failed request.

1. Every server holds what it held and what is wanted. A version that clients who name none would get at once, because
   its number is the highest, answers its bundle's examples as a version on trial first.
2. Every target of the new routes answers its bundle's examples on every server.
3. The routes are written. Until here any failure leaves every server as it was.
4. The old versions stay until nobody asks them and the new one has answered users; where no user comes, for some
   seconds. If the new one does not answer the examples then, everything goes back.
5. What is not wanted any more is unloaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from components.errors import EmbedlineError, UsageError
from serving import control, known_answers
from serving.client import connect
from serving.releases.places import Bundles, Place
from serving.routes import STABLE, TRIAL, Routes, Target, change_routes, read_routes

SETTLE_SECONDS = 5.0
QUIET_SECONDS = 0.6
"""Three times what readers of the routes may be behind."""
LEAST_ANSWERS = 10
LOCK_SECONDS = 60

Holding = dict[str, list[int]]
"""The versions of each model that a server holds, the one whose bundle configures the model first."""


@dataclass(frozen=True)
class Move:
    """What is wanted: `change` makes the routes from those of now; `held` are the versions of `embedder`, the champion
    first; those of `anew` are started anew though they are there. `settle_seconds` is the longest wait of step 4."""

    change: Callable[[Routes | None], Routes]
    held: Sequence[int]
    anew: Collection[int] = ()
    settle_seconds: float = SETTLE_SECONDS


def move(home: Path, places: Sequence[Place], bundles: Bundles, wanted: Move) -> Routes:
    """Does what this module says, and returns the new routes. Whoever calls it holds `alone`.

    Raises `EmbedlineError` with everything as it was if a server or a version refuses.
    """
    old = routes_now(home)
    new = wanted.change(old)
    holding = held_for(new, wanted.held)
    before = [held_at(place) for place in places]
    try:
        for place, had in zip(places, before, strict=True):
            prove_unseen(home, place, new.stable, had, bundles)
            for model, anew in ((STABLE, wanted.anew), (TRIAL, ())):
                both = list(dict.fromkeys([*holding[model], *had[model]]))
                if anew or sorted(both) != sorted(had[model]):
                    place.hold(model, both, bundles, anew)
        prove(home, places, new, bundles)
        written = change_routes(home, wanted.change)
    except BaseException as error:
        undo(places, before, bundles)
        raise undone(error, new, before) from error
    unwanted = [
        Target(model, version)
        for had in before
        for model in had
        for version in had[model]
        if version not in holding[model]
    ]
    try:
        if unwanted:
            settle(places, new.stable, unwanted, wanted.settle_seconds)
            prove(home, places, Routes(new.stable), bundles)
    except BaseException as error:
        if old:
            stable = old.stable
            change_routes(home, lambda now: replace(now or old, stable=stable))
            time.sleep(QUIET_SECONDS)  # readers of the routes follow
        undo(places, before, bundles)
        raise undone(error, new, before) from error
    for place in places:
        for model in (STABLE, TRIAL):
            if place.loaded(model) != sorted(holding[model]):
                place.hold(model, holding[model], bundles)
    return written


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One release at a time. Raises `UsageError` if another takes longer than `LOCK_SECONDS`."""
    try:
        with FileLock(home / "releases.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise UsageError("another release is under way here", "Wait until it has ended.") from error


def routes_now(home: Path) -> Routes | None:
    """Returns the routes, or None before the first deployment."""
    try:
        return read_routes(home)
    except UsageError:
        return None


def held_for(routes: Routes, held: Sequence[int]) -> Holding:
    """Returns what servers hold for these routes and these versions of `embedder`."""
    trials = dict.fromkeys(target.version for target in (routes.canary, routes.shadow) if target)
    return {STABLE: list(held), TRIAL: list(trials)}


def held_at(place: Place) -> Holding:
    return {model: place.loaded(model)[::-1] for model in (STABLE, TRIAL)}


def prove_unseen(home: Path, place: Place, target: Target, had: Holding, bundles: Bundles) -> None:
    """Has a version on trial answer its bundle's examples, if clients that name none would get it when it is loaded."""
    newest = max(had[STABLE], default=None)
    if newest is None or target.version <= newest or target.version in had[TRIAL]:
        return
    place.hold(TRIAL, [target.version, *had[TRIAL]], bundles)
    prove(home, [place], Routes(Target(TRIAL, target.version)), bundles)


def prove(home: Path, places: Sequence[Place], routes: Routes, bundles: Bundles) -> None:
    """Raises `EmbedlineError` unless every target answers its bundle's examples as recorded, on every server."""
    for target in filter(None, (routes.stable, routes.canary, routes.shadow)):
        answers = known_answers.folder(home / "model_repository", target.version)
        if not answers.exists():
            known_answers.keep(home / "model_repository", bundles(target.version), target.version)
        for place in places:
            control.probe(place.url, answers, target.version, target.model)


def settle(places: Sequence[Place], new: Target, old: Sequence[Target], seconds: float) -> None:
    """Returns when the new target has answered users and nobody asks the old ones, or after so many seconds."""
    began = quiet_since = time.monotonic()
    answered_before, asked_before = answered(places, [new]), answered(places, old)
    while time.monotonic() - began < seconds:
        time.sleep(QUIET_SECONDS / 6)
        if (asked := answered(places, old)) != asked_before:
            asked_before, quiet_since = asked, time.monotonic()
        is_quiet = time.monotonic() - quiet_since >= QUIET_SECONDS
        if is_quiet and answered(places, [new]) - answered_before >= LEAST_ANSWERS:
            return


def answered(places: Sequence[Place], targets: Collection[Target]) -> int:
    """Returns how many requests the targets have answered or refused since they were loaded, on all servers."""
    total = 0
    for place in places:
        with connect(place.url, control.LOAD_SECONDS) as client:
            statistics = client.get_inference_statistics()["model_stats"]
        for model in statistics:
            if Target(model["name"], int(model["version"])) in targets:
                counts = model["inference_stats"]
                total += counts["success"].get("count", 0) + counts["fail"].get("count", 0)
    return total


def undo(places: Sequence[Place], before: Sequence[Holding], bundles: Bundles) -> None:
    """Brings every server back to what it held; one that cannot be brought back is in the log."""
    for place, had in zip(places, before, strict=True):
        for model in (STABLE, TRIAL):
            try:
                if place.loaded(model) != sorted(had[model]):
                    place.hold(model, had[model], bundles)
            except EmbedlineError as error:
                logging.getLogger(__name__).error("%s could not be brought back: %s", place.url, error.problem)


def undone(error: BaseException, new: Routes, before: Sequence[Holding]) -> BaseException:
    """Returns the error that says what did not come about and what goes on; one that is not ours stays as it is."""
    if not isinstance(error, EmbedlineError):
        return error
    kept = sorted({version for had in before for version in had[STABLE]})
    trials = "".join(
        f", {name} {target.version}" for name, target in (("canary", new.canary), ("shadow", new.shadow)) if target
    )
    problem = (
        f"the release of version {new.stable.version}{trials} did not come about "
        f"(served as before: {', '.join(map(str, kept)) or 'nothing'}): {error.problem}"
    )
    return type(error)(problem, error.remedy)
