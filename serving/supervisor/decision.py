"""What is done next about a process that does not answer; a pure function of what was tried, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

How = Literal["reload", "restart"]
Step = Literal["reload", "restart", "wait", "give_up"]
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0


@dataclass(frozen=True)
class Policy:
    """How many restarts are tried within how many seconds before the supervisor gives up."""

    max_restarts: int
    window_seconds: float


@dataclass(frozen=True)
class Heal:
    """What was tried, when that was over (seconds of a monotonic clock), and whether real answers came afterwards."""

    time: float
    how: How
    worked: bool


def next_step(heals: Sequence[Heal], running: bool, reloadable: bool, now: float, policy: Policy) -> Step:
    """Returns what to do about an unhealthy process, `heals` being what was tried before, the oldest first.

    A running server has to load its model again unless that has just failed or has not lasted; else it is
    restarted, the first time at once, then after 1, 2, 4, ... seconds. The limit holds for the restarts of the window,
    and for failures in a row however long they took.
    """
    recent = [heal for heal in heals if now - heal.time <= policy.window_seconds]
    reloads, restarts = ([heal for heal in recent if heal.how == how] for how in ("reload", "restart"))
    if running and reloadable and len(reloads) < policy.max_restarts and (not recent or recent[-1].worked):
        return "reload"
    failed = [heal for heal in takewhile(lambda heal: not heal.worked, reversed(heals)) if heal.how == "restart"]
    if max(len(restarts), len(failed)) >= policy.max_restarts:
        return "give_up"
    if restarts and now < restarts[-1].time + wait_seconds(len(restarts)):
        return "wait"
    return "restart"


def wait_seconds(restarts: int) -> float:
    """Returns how long to wait after so many restarts, at least one, before the next."""
    return float(min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (restarts - 1)))
