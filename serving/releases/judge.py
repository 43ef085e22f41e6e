"""Whether a canary may stay: pure functions of what was counted, right however often they are asked.

A canary is judged every second, so a p-value would return a good one sooner or later. Each question here is one on a
rate (`evidence`), answered by an e-value: the chance that it ever reaches `1 / level`, over all times that it is looked
at, is at most `level` while the rate is not exceeded (Ville's inequality; Robbins, 1970, for the mixture).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import betaincc, betaln

TAIL = 0.95


class Counted(Protocol):
    """What one target did since the canary began: requests that it answered or failed, those that it failed, and the
    milliseconds of answers, all or the latest. A request that is refused for what is in it (4xx) counts nowhere."""

    @property
    def requests(self) -> int: ...

    @property
    def errors(self) -> int: ...

    @property
    def latencies_ms(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class CanaryLimits:
    """`level` is the chance that a canary as good as stable is ever returned. It may err in `max_error_rate` of its
    requests at most, whatever stable does, and be `max_latency_ratio` times as slow. Latencies are compared from
    `min_latencies` of each on, errors from `min_requests` of the canary on."""

    level: float = 0.01
    max_error_rate: float = 0.05
    max_latency_ratio: float = 1.5
    min_requests: int = 20
    min_latencies: int = 100


@dataclass(frozen=True)
class Judgement:
    verdict: Literal["keep", "return"]
    reason: str


def judge(stable: Counted, canary: Counted, limits: CanaryLimits) -> Judgement:
    """Returns whether the canary stays. It goes if it errs more often than stable, more often than is bearable, or is
    slower in the middle or in the tail."""
    questions = [*_on_errors(stable, canary, limits), *_on_latency(stable, canary, limits)]
    enough = math.log(4 / limits.level)  # four questions share the level
    for reason, count, total, rate in questions:
        if evidence(count, total, rate) >= enough:
            return Judgement("return", reason)
    return Judgement("keep", f"{canary.requests} requests, {canary.errors} errors, nothing against it")


def evidence(count: int, total: int, rate: float) -> float:
    """Returns the logarithm of the e-value against "the rate is at most `rate`" after `count` of `total`.

    It is the likelihood ratio of the rates above, mixed evenly, to `rate` itself; below 0 speaks for the rate.
    """
    if not 0 < rate < 1:
        return 0.0 if count == 0 or rate >= 1 else math.inf
    above = betaincc(count + 1, total - count + 1, rate)
    if above == 0:  # less than a float holds: the count lies far below the rate
        return -math.inf
    mixed = betaln(count + 1, total - count + 1) + math.log(above) - math.log1p(-rate)
    return float(mixed - count * math.log(rate) - (total - count) * math.log1p(-rate))


Question = tuple[str, int, int, float]


def _on_errors(stable: Counted, canary: Counted, limits: CanaryLimits) -> list[Question]:
    """Of all errors the canary may have the share that it has of all requests, and its own rate has a limit."""
    if canary.requests < limits.min_requests:
        return []
    counted = f"{canary.errors} of {canary.requests} requests failed"
    everything = stable.requests + canary.requests
    return [
        (f"{counted}, {stable.errors} of {stable.requests} by stable", canary.errors, canary.errors + stable.errors,
         canary.requests / everything),
        (f"{counted}; at most {limits.max_error_rate:.0%} may", canary.errors, canary.requests, limits.max_error_rate),
    ]  # fmt: skip


def _on_latency(stable: Counted, canary: Counted, limits: CanaryLimits) -> list[Question]:
    """Of the canary's answers as many may take `max_latency_ratio` times a quantile of stable's as lie above that."""
    if min(len(stable.latencies_ms), len(canary.latencies_ms)) < limits.min_latencies:
        return []
    latencies = np.asarray(canary.latencies_ms)
    questions = []
    for name, quantile in (("half", 0.5), (f"{1 - TAIL:.0%}", TAIL)):
        bound = limits.max_latency_ratio * float(np.quantile(stable.latencies_ms, quantile))
        slow = int((latencies > bound).sum())
        reason = (
            f"{slow} of {len(latencies)} answers took more than {bound:.1f} ms, "
            f"{limits.max_latency_ratio:g} times what {name} of stable's take at least"
        )
        questions.append((reason, slow, len(latencies), 1 - quantile))
    return questions
