"""`embedline serve` in the background: it returns once all answers, tells how it is, and stops."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.supervisor import state
from serving.triton import process_birth
from tests.serving.supervisor.conftest import COMMAND, SECONDS, environment
from tests.serving.test_triton import leftovers


def call(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=root, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )


@pytest.fixture
def started(root: Path) -> Iterator[dict[str, Any]]:
    """What starting it in the background has printed."""
    started = call(root, "--detach", "--json")
    assert started.returncode == 0, started.stderr
    yield json.loads(started.stdout)
    state.stop(root / ".embedline")


@pytest.mark.slow
def test_it_tells_how_it_is_and_stops(root: Path, started: dict[str, Any]) -> None:
    assert started["ready"] and started["version"] == 1 and process_birth(started["pid"]) == started["born"]
    status = call(root, "status", "--json")
    known = json.loads(status.stdout)
    assert status.returncode == 0 and known["healthy"] == {"triton": True} and known["pid"] == started["pid"]
    again = call(root)
    assert again.returncode == 2 and f"runs here already: process {started['pid']}" in again.stderr
    assert json.loads(call(root, "stop", "--json").stdout) == {"stopped": started["pid"]}
    assert process_birth(started["pid"]) is None and leftovers(root / ".embedline") == []
    assert call(root, "status").returncode == 1
    assert "It did not run" in call(root, "stop").stdout


@pytest.mark.slow
def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("serving: {}\n")
    failed = call(tmp_path, "--detach")
    assert failed.returncode == 1
    assert "it ended at start-up, exit code 2" in failed.stderr and "serving.variant: is missing" in failed.stderr
