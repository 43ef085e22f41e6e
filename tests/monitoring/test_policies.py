"""Retraining policies are pure functions of the past."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from components.monitoring.config import Policy
from monitoring.policies import DAY, reason_to_retrain, replay, replays
from monitoring.quality import Quality
from monitoring.report import WindowReport

REPORT = WindowReport(0, DAY, "1", 500, 500, 2000, "ok", 0.5, 0.4, 30, False, False, False, None, [], [], {})
FALLEN = Quality("mean reciprocal rank", 0.8, 0.7, 0.05, 0.15, 300)


def history(verdicts: str) -> list[WindowReport]:
    """A window a day: `.` is ok, `a` an alarm, `n` a note, `q` a quality that fell."""
    names = {".": "ok", "a": "alarm", "n": "note", "q": "alarm"}
    return [
        replace(
            REPORT, since=day * DAY, until=(day + 1) * DAY, verdict=names[kind], quality=FALLEN if kind == "q" else None
        )
        for day, kind in enumerate(verdicts)
    ]


def days(policy: Policy, verdicts: str) -> list[int]:
    return [round(each.time / DAY) for each in replay("a", policy, history(verdicts)).retrainings]


def test_k_of_the_last_n_windows() -> None:
    policy = Policy(alarms=2, of_windows=3)
    assert days(policy, "..a..a..") == []
    assert days(policy, "..a.a...") == [5]
    assert days(policy, "..nnn...") == []
    assert days(policy, "aaaaaa") == [2, 4, 6], "alarms from before a retraining do not count again"


def test_a_schedule_and_a_quality_that_falls() -> None:
    assert days(Policy(every_days=3), "." * 10) == [3, 6, 9]
    assert days(Policy(quality_drop=0.05), "..q..") == [3]
    assert days(Policy(quality_drop=0.2), "..q..") == []


def test_guards_hold_a_trigger_back() -> None:
    assert days(Policy(alarms=1, cool_down_days=3), "aaaaaaaa") == [1, 4, 7]
    assert days(Policy(alarms=1, new_requests=1000), "aaaaaaaa") == [2, 4, 6, 8]
    assert days(Policy(alarms=1, cost=5, budget_a_month=12), "a" * 40) == [1, 2, 31, 32]


def test_the_past_decides_and_not_what_came_later() -> None:
    policy = Policy(alarms=2, of_windows=4, every_days=9)
    whole = history("..a.a..aa...a.a.....")
    for length in range(1, len(whole)):
        earlier = [each for each in replay("a", policy, whole).retrainings if each.time <= whole[length - 1].until]
        assert replay("a", policy, whole[:length]).retrainings == earlier
    assert reason_to_retrain(policy, [], []) is None


def test_policies_are_compared_on_one_history() -> None:
    policies = {
        "eager": Policy(alarms=1, cost=2),
        "slow": Policy(alarms=3, of_windows=3, cost=2),
        "never": Policy(every_days=99),
    }
    found = {each.policy: each for each in replays(policies, history("...aaa...."))}
    assert [found[name].cost for name in ("eager", "slow", "never")] == [6, 2, 0]
    assert [found[name].wait_days for name in ("eager", "slow", "never")] == [0, 2, None]
    assert all(each.alarms == 3 for each in found.values())
    assert found["slow"].retrainings[0].reason == "3 of the last 3 windows are alarms"


def test_a_policy_without_a_trigger_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs one of"):
        Policy(cool_down_days=1)
    with pytest.raises(ValidationError, match="more than of_windows"):
        Policy(alarms=3, of_windows=2)
