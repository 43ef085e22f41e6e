"""A child ends with the supervisor, whatever happens to it, and takes along what it has started itself."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import EmbedlineError
from serving.supervisor.child import Child, ChildProcess
from serving.triton import choose_ports
from tests.serving.supervisor.conftest import ROOT, wait_for

FAMILY = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); time.sleep(600)"  # noqa: E501
STARTER = f"""
import sys, time
from pathlib import Path
from serving.supervisor.child import Child, ChildProcess

child = ChildProcess(Child("family", (sys.executable, "-c", {FAMILY!r}), lambda: None), Path(sys.argv[1]), 10)
child.start()
print(child.process.pid, flush=True)
time.sleep(600)
"""


def web(port: int) -> Child:
    """A real HTTP server and a probe that asks it."""

    def probe() -> None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except (urllib.error.URLError, OSError) as error:
            raise EmbedlineError(f"no answer: {error}", "") from error

    return Child("web", (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"), probe)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildProcess]:
    process = ChildProcess(web(choose_ports({"web": 0})[0]), tmp_path, 20)
    process.start()
    yield process
    process.stop()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_child_answers_once_it_has_started_and_is_restarted(child: ChildProcess) -> None:
    child.probe()
    assert child.process
    first = child.process.pid
    os.kill(first, 9)
    wait_for(lambda: not child.is_running)
    with pytest.raises(EmbedlineError):
        child.probe()
    child.restart()
    child.probe()
    assert child.process.pid != first
    child.stop()
    assert not child.is_running


def test_a_child_that_ends_at_once_says_where_its_log_is(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "print('no such port'); raise SystemExit(3)")
    process = ChildProcess(Child("broken", command, refuse), tmp_path, 20)
    with pytest.raises(EmbedlineError, match="ended at start-up: exit code 3") as caught:
        process.start()
    assert str(tmp_path / "broken.log") in caught.value.remedy
    assert (tmp_path / "broken.log").read_text() == "no such port\n"


def test_a_child_that_never_answers_is_too_slow(tmp_path: Path) -> None:
    process = ChildProcess(Child("mute", (sys.executable, "-c", "import time; time.sleep(60)"), refuse), tmp_path, 0.2)
    with pytest.raises(EmbedlineError, match=r"did not answer within 0.2 s: not yet"):
        process.start()
    process.stop()
    assert not process.is_running


def refuse() -> None:
    raise EmbedlineError("not yet", "")


def test_children_and_grandchildren_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdout
        family = [int(starter.stdout.readline())]
        family.append(int(wait_for((tmp_path / "family.log").read_text)))
        assert all(map(lives, family)), "while the supervisor lives, they stay"
        starter.kill()
    wait_for(lambda: not any(map(lives, family)), seconds=10)
