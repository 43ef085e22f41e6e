"""The line, killed in the middle of each stage, or beside a second one: apart, so that two workers share the time."""

from __future__ import annotations

import os
import signal
import time

import pytest

from components.stages import STAGES

from .conftest import Line, wait_for

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILL_AFTER_SECONDS = 0.5


@pytest.mark.parametrize("stages", [("teacher",), pytest.param(STAGES, marks=pytest.mark.nightly, id="each stage")])
def test_a_line_killed_in_the_middle_of_a_stage_goes_on(line: Line, stages: tuple[str, ...]) -> None:
    finished: dict[str, str] = {}
    for stage in stages:
        kill_during(line, stage)
        assert line.producers().items() >= finished.items(), f"killing {stage} lost something finished"
        finished = line.producers()
        assert stage not in finished
        assert not list((line.root / "artifacts").glob("[!.]*/**/*.partial"))
    outcome = line.answer("run")
    assert line.producers().items() >= finished.items(), "a finished stage was repeated"
    assert outcome["roles"]["champion"] == outcome["version"]


def test_a_second_run_beside_the_first_is_refused(line: Line) -> None:
    first = line.start("run")
    try:
        wait_for(lambda: (line.root / ".embedline" / "logs" / "validate.log").exists(), first)
        second = line.call("run")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert second.returncode == 2
    assert str(first.pid) in second.stderr


def kill_during(line: Line, stage: str) -> None:
    """Starts a round and kills all of it shortly after the stage has begun to work."""
    log = line.root / ".embedline" / "logs" / f"{stage}.log"
    log.unlink(missing_ok=True)
    process = line.start("run")
    try:
        wait_for(lambda: log.exists() and "Running stage" in log.read_text(), process)
        time.sleep(KILL_AFTER_SECONDS)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
