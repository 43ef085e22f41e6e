"""A real Prefect server and worker: a schedule fires, an alarm starts a retraining, and killed processes come back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from components.traffic import Request, TrafficWriter, Window

Draw = Callable[..., Window]
ROOT = Path(__file__).parents[2]
DAY, SECONDS = 86_400.0, 400
START = 80_000 * DAY / 4
RETRAIN = """
from pathlib import Path

from prefect import flow


@flow(name="retrain")
def retrain(reason: str = "", feedback: bool = False) -> None:
    with Path("reasons.txt").open("a") as file:
        file.write(reason + chr(10))
"""
"""A round takes minutes; what is tested is that one is started, and why."""


@dataclass(frozen=True)
class Workspace:
    root: Path
    environment: dict[str, str]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("cli.main", "schedule", "status", "--json").stdout)
        return found

    def send(self, window: Window, number: int) -> None:
        with TrafficWriter(self.root / ".embedline" / "traffic") as writer:
            for row, vector in enumerate(window.vectors):
                when = START + (number + (row + 0.5) / len(window)) * DAY / 4
                writer.record(Request(when, f"{number}-{row}", vector, str(window.columns["modality"][row]), "1"))

    def process(self, word: str) -> psutil.Process:
        """The process of Prefect's server or worker of this workspace."""
        found = [
            each
            for each in psutil.process_iter(["cmdline", "cwd"])
            if each.info["cwd"] == str(self.root) and ["prefect", word] == (each.info["cmdline"] or [])[2:4]
        ]
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def workspace(tmp_path: Path, draw: Draw) -> Iterator[Workspace]:
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    parameters["monitoring"] = {
        "windows_a_day": 4, "false_alarms_per_month": 12, "permutations": 499, "min_requests": 50,
        "slices": ["modality"], "retrain": "eager", "policies": {"eager": {"alarms": 1}},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    (tmp_path / "flows").mkdir()
    for name in ("approve", "ingest", "deploy", "monitor", "golden_queries", "heartbeat"):
        shutil.copy(ROOT / "flows" / f"{name}.py", tmp_path / "flows")
    (tmp_path / "flows" / "retrain.py").write_text(RETRAIN)
    reference, ones = draw(500, 0), np.ones(500, np.float32)
    (tmp_path / "artifacts" / "bundle").mkdir(parents=True)
    np.savez(tmp_path / "artifacts/bundle/reference.npz", vectors=reference.vectors, norms=ones, top1=ones,
             modalities=reference.columns["modality"], tasks=np.array(["a"] * 500))  # fmt: skip
    made = Workspace(tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield made
    finally:
        made.call("cli.main", "schedule", "down")


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.mark.slow
def test_an_alarm_starts_a_retraining_also_after_server_and_worker_were_killed(
    workspace: Workspace, draw: Draw
) -> None:
    up = workspace.call("cli.main", "schedule", "up", "--port", "0", "--json")
    assert up.returncode == 0, up.stdout + up.stderr
    url = json.loads(up.stdout.splitlines()[-1])["url"]
    status = workspace.status()
    states = {each["name"]: each["last_state"] for each in status["deployments"]}
    assert status["healthy"] and states["heartbeat/proof"] == "Completed"
    assert {"ingest/scheduled", "retrain/scheduled", "monitor/scheduled", "golden-queries/scheduled"} <= set(states)
    again = workspace.call("cli.main", "schedule", "up", "--port", "0")
    assert again.returncode != 0 and "already" in again.stderr

    for word in ("server", "worker"):
        killed = workspace.process(word)
        os.kill(killed.pid, signal.SIGKILL)
        eventually(lambda word=word, pid=killed.pid: replaced(workspace, word, pid), f"the {word} is started again")
    eventually(lambda: workspace.status()["healthy"], "both answer again")
    assert workspace.status()["running"]

    workspace.send(draw(300, 1), 0)
    workspace.send(draw(300, 2, shift=1.5), 1)
    api = {**workspace.environment, "PREFECT_API_URL": f"{url}/api"}
    prefect = Workspace(workspace.root, api)
    asked = prefect.call("prefect", "deployment", "run", "monitor/scheduled", "--watch")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    reasons = workspace.root / "reasons.txt"
    eventually(lambda: reasons.exists(), "the retraining is started by the event")
    assert reasons.read_text() == "1 of the last 1 windows are alarms\n"
    assert "drift alarm" in (workspace.root / ".embedline" / "alerts.log").read_text()

    server = workspace.process("server")
    assert workspace.call("cli.main", "schedule", "down").returncode == 0
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert workspace.call("cli.main", "schedule", "status").returncode == 1


def replaced(workspace: Workspace, word: str, pid: int) -> bool:
    try:
        return workspace.process(word).pid != pid
    except (AssertionError, psutil.NoSuchProcess):
        return False


@pytest.mark.slow
def test_without_deployments_it_says_what_is_missing(tmp_path: Path) -> None:
    made = Workspace(tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    refused = made.call("cli.main", "schedule", "up", "--foreground")
    assert refused.returncode == 2
    assert "prefect.yaml is missing" in refused.stderr
    assert made.call("cli.main", "schedule", "status").returncode == 1
