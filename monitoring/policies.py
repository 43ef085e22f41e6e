"""When to retrain: pure functions of the recorded history, so that a policy can be tried on the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.monitoring.config import Policy
from monitoring.calibration import DAYS_A_MONTH
from monitoring.report import ALARM, WindowReport

DAY = 86_400.0


@dataclass(frozen=True)
class Retraining:
    """That a policy would have retrained after a window that ended at `time`, and why."""

    time: float
    reason: str


@dataclass(frozen=True)
class Replay:
    """What a policy would have done: when it would have retrained, at what cost, and how it fared with the alarms.

    `alarms` is how many windows were alarms, `wait_days` the mean time from the first alarm of a run of them to the
    next retraining, None if none followed.
    """

    policy: str
    retrainings: list[Retraining]
    cost: float
    alarms: int
    wait_days: float | None


def reason_to_retrain(policy: Policy, history: Sequence[WindowReport], done: Sequence[float]) -> str | None:
    """Returns why the policy would retrain after the last window of a history, None if it would not.

    `done` are the times of the retrainings until then, in order.
    """
    if not history or _forbidden(policy, history, done):
        return None
    now, last = history[-1].until, history[-1]
    start = done[-1] if done else history[0].since
    since_then = [report for report in history[-policy.of_windows :] if report.until > start]
    alarms = sum(report.verdict == ALARM for report in since_then)
    if policy.alarms is not None and alarms >= policy.alarms:
        return f"{alarms} of the last {len(since_then)} windows are alarms"
    quality = last.quality
    if policy.quality_drop is not None and quality and quality.drop_low > 0 and quality.drop >= policy.quality_drop:
        return f"{quality.measure} fell by {quality.drop:.3f}"
    if policy.every_days is not None and now - start >= policy.every_days * DAY:
        return f"{policy.every_days:g} days went by"
    return None


def replay(name: str, policy: Policy, history: Sequence[WindowReport]) -> Replay:
    """Returns what a policy would have done, window by window, knowing at each only what was known then."""
    retrainings: list[Retraining] = []
    for position in range(1, len(history) + 1):
        reason = reason_to_retrain(policy, history[:position], [each.time for each in retrainings])
        if reason:
            retrainings.append(Retraining(history[position - 1].until, reason))
    waits = []
    for start in _alarm_starts(history):
        later = [each.time for each in retrainings if each.time >= start]
        waits += [(later[0] - start) / DAY] if later else []
    return Replay(
        name,
        retrainings,
        policy.cost * len(retrainings),
        sum(report.verdict == ALARM for report in history),
        sum(waits) / len(waits) if waits else None,
    )


def replays(policies: Mapping[str, Policy], history: Sequence[WindowReport]) -> list[Replay]:
    """Returns what each policy would have done on the same history."""
    return [replay(name, policy, history) for name, policy in policies.items()]


def _forbidden(policy: Policy, history: Sequence[WindowReport], done: Sequence[float]) -> bool:
    now = history[-1].until
    new = sum(report.count for report in history if not done or report.since >= done[-1])
    spent = policy.cost * sum(time > now - DAYS_A_MONTH * DAY for time in done)
    return (
        new < policy.new_requests
        or bool(done and now - done[-1] < policy.cool_down_days * DAY)
        or (policy.budget_a_month is not None and spent + policy.cost > policy.budget_a_month)
    )


def _alarm_starts(history: Sequence[WindowReport]) -> list[float]:
    """Returns the ends of the windows that are alarms and follow none."""
    return [
        report.until
        for before, report in zip([None, *history], history, strict=False)
        if report.verdict == ALARM and (before is None or before.verdict != ALARM)
    ]
