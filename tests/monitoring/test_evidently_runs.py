"""Looks are runs of Evidently's workspace, once each, and its own service shows them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from components.errors import UsageError
from components.monitoring.config import Monitoring
from components.traffic import Window
from monitoring.report import WindowReport, append_history, judge_window

Draw = Callable[..., Window]
ROOT = Path(__file__).parents[2]
SETTINGS = Monitoring(permutations=19, min_requests=50, slices=["modality"], tests=[{"name": "mmd"}, {"name": "norm"}])


@pytest.fixture
def reports(draw: Draw) -> list[WindowReport]:
    calm = judge_window(draw(200, 0), draw(200, 1), SETTINGS, since=0.0, until=1.0, version="3")
    alarm = replace(calm, since=1.0, until=2.0, verdict="alarm", evidence=calm.limit + 1)
    return [calm, alarm, replace(calm, since=1.0, until=2.0, version="4")]


def test_runs_are_written_once_and_read_back(tmp_path: Path, reports: list[WindowReport]) -> None:
    from evidently.ui.workspace import Workspace

    from monitoring.evidently_runs import PROJECT, statistics, write_runs

    assert write_runs(tmp_path / "runs", reports[:1]) == 1
    assert write_runs(tmp_path / "runs", reports) == 2
    assert write_runs(tmp_path / "runs", reports) == 0
    workspace = Workspace.create(str(tmp_path / "runs"))
    (project,) = workspace.list_projects()
    assert project.name == PROJECT
    runs = [workspace.get_run(project.id, run) for run in workspace.list_runs(project.id)]
    for report in reports:
        (run,) = [
            each
            for each in runs
            if each.timestamp.timestamp() == report.until and each.metadata["version"] == report.version
        ]
        found = {}
        for result in run.metric_results.values():
            labels = result.metric_value_location.metric.params
            found[labels["slice"], labels["statistic"]] = result.value
        assert found == statistics(report)
        assert {(one.slice, one.test) for one in report.findings} < set(found)
        (test,) = [test for result in run.metric_results.values() for test in result.tests]
        assert (test.status.value == "FAIL") == (report.evidence >= report.limit)
        assert report.verdict in run.tags
    panels = project.dashboard.model().panels
    assert [panel.title for panel in panels][:3] == ["evidence", "p", "requests"]
    drawn = {
        (value.metric_labels["slice"], value.metric_labels["statistic"]) for panel in panels for value in panel.values
    }
    assert drawn == set(statistics(reports[0]))


@pytest.mark.slow
def test_the_command_serves_the_runs_until_it_is_stopped(tmp_path: Path, reports: list[WindowReport]) -> None:
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    ones, words = np.ones(3, np.float32), np.array(["text"] * 3)
    np.savez(tmp_path / "reference.npz", vectors=np.eye(3, dtype=np.float32), top1=ones, modalities=words, tasks=words)
    (tmp_path / "traffic").mkdir()
    append_history(tmp_path / "kept" / "history.jsonl", reports)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = ("--traffic", "traffic", "--reference", "reference.npz", "--history", "kept/history.jsonl")
    command = [sys.executable, "-m", "cli.main", "monitor", *arguments, "--ui", "--ui-port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        answer = None
        while answer is None:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/api/projects", trust_env=False)
            except httpx.TransportError:
                time.sleep(0.2)
        (project,) = answer.json()
        assert project["name"] == "Embedline"
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90)
        assert again.returncode == 1
        assert "--ui-port" in again.stderr and "Traceback" not in again.stderr
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.returncode == 5, "an alarm stands"
    finally:
        process.kill()
        process.wait()


def test_where_evidently_is_missing_the_command_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import monitoring

    monkeypatch.setitem(sys.modules, "evidently", None)
    monkeypatch.delitem(sys.modules, "monitoring.evidently_runs", raising=False)
    monkeypatch.delattr(monitoring, "evidently_runs", raising=False)
    with pytest.raises(UsageError, match="Evidently is not installed") as refused:
        from monitoring import evidently_runs  # noqa: F401
    assert "pip install 'embedline[evidently]'" in refused.value.remedy
