import io
import re
import time

import pytest
from prefect import flow, get_run_logger, task
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console

from cli.progress import shown


@task
def silent(seconds: float) -> None:
    time.sleep(seconds)


@task
def talkative(seconds: float) -> None:
    get_run_logger().info("about to sleep")
    time.sleep(seconds)


@flow
def both() -> None:
    silent(0)
    silent.with_options(name="silent again")(1.2)
    silent(1.2)
    talkative(1.2)


@pytest.mark.slow
def test_every_task_shows_the_seconds_that_it_took(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    written = io.StringIO()
    with prefect_test_harness(server_startup_timeout=120), shown(Console(file=written, width=200)):
        both()
    shown_seconds = re.findall(r"^(.+) \((\d+) s\)$", written.getvalue(), flags=re.MULTILINE)
    assert shown_seconds == [("silent", "0"), ("silent again", "1"), ("silent", "1"), ("talkative", "1")]
