"""What is done next depends on what was tried and when, and on nothing else."""

from __future__ import annotations

import pytest

from serving.supervisor.decision import Heal, How, Policy, Step, next_step, wait_seconds

POLICY = Policy(max_restarts=3, window_seconds=100)


def step(*heals: Heal, running: bool = True, reloadable: bool = True, now: float = 1000) -> Step:
    return next_step(heals, running, reloadable, now, POLICY)


def ago(seconds: float, how: How = "restart", worked: bool = True) -> Heal:
    return Heal(1000 - seconds, how, worked)


@pytest.mark.parametrize(
    ("running", "reloadable", "first"),
    [(True, True, "reload"), (True, False, "restart"), (False, True, "restart"), (False, False, "restart")],
)
def test_the_first_step_is_the_mildest_that_can_help(running: bool, reloadable: bool, first: Step) -> None:
    assert step(running=running, reloadable=reloadable) == first


def test_a_reload_that_did_not_help_is_followed_by_a_restart_at_once() -> None:
    assert step(ago(0, "reload", worked=False)) == "restart"


def test_a_reload_that_helped_is_tried_again_but_not_for_ever() -> None:
    assert step(ago(30, "reload")) == "reload"
    assert step(ago(30, "reload"), ago(20, "reload"), ago(10, "reload")) == "restart"


def test_restarts_wait_longer_each_time() -> None:
    waits = [wait_seconds(count) for count in range(1, 10)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert step(ago(0.9), running=False) == "wait"
    assert step(ago(1.0), running=False) == "restart"
    assert step(ago(5), ago(1.9), running=False) == "wait"
    assert step(ago(5), ago(2.0), running=False) == "restart"


def test_restarts_within_the_window_are_limited_even_if_each_worked() -> None:
    assert step(ago(90), ago(60), ago(30), running=False) == "give_up"
    assert step(ago(101), ago(60), ago(30), running=False) == "restart", "the first is forgotten"


def test_failures_in_a_row_are_limited_however_slow_they_were() -> None:
    slow = [ago(seconds, worked=False) for seconds in (900, 600, 300)]
    assert step(*slow, running=False) == "give_up"
    assert step(*slow[1:], running=False) == "restart"
    assert step(*slow[:2], ago(250), ago(200, worked=False), running=False) == "restart", "one has helped"


def test_giving_up_does_not_wait() -> None:
    assert step(ago(3), ago(2), ago(0.1), running=False) == "give_up"
