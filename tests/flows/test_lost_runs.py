"""Which runs are started again: those whose process has gone, however that was reported, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.schedule import MOST_STARTS, PENDING, is_lost

UP = datetime.now(UTC) - timedelta(hours=1)
LATER, EARLIER = UP + timedelta(minutes=1), UP - timedelta(minutes=1)
LIVES = str(os.getpid())


@pytest.fixture(scope="module")
def dead() -> str:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return str(ended.pid)


def lost(kind: StateType, process: str | None, at: datetime = LATER, run_count: int = 1) -> bool:
    state: State[None] = State(type=kind, timestamp=at)
    return is_lost(FlowRun(flow_id=uuid4(), state=state, state_type=kind, infrastructure_pid=process,
                           run_count=run_count), UP)  # fmt: skip


def test_a_run_whose_process_has_died_is_lost_and_one_that_lives_is_not(dead: str) -> None:
    assert lost(StateType.RUNNING, dead)
    assert not lost(StateType.RUNNING, LIVES)
    assert not lost(StateType.RUNNING, f"another-machine:{dead}")
    assert not lost(StateType.RUNNING, None)


def test_a_run_that_a_killed_worker_was_about_to_start_is_lost_after_a_while(dead: str) -> None:
    for process in (dead, None):
        assert lost(StateType.PENDING, process)
        assert not lost(StateType.PENDING, process, at=datetime.now(UTC) - PENDING / 2)
    assert not lost(StateType.PENDING, LIVES)


def test_a_run_that_crashed_is_started_again_a_few_times_unless_that_was_before(dead: str) -> None:
    assert lost(StateType.CRASHED, dead)
    assert not lost(StateType.CRASHED, dead, at=EARLIER)
    assert not lost(StateType.CRASHED, dead, run_count=MOST_STARTS)
