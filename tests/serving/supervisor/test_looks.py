"""What monitor and golden queries last said is what Prometheus reads, and damage hides nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from components.monitoring.config import Monitoring
from components.traffic import Window
from monitoring import golden
from monitoring.golden import GoldenReport
from monitoring.outcomes import Outcome
from monitoring.report import WindowReport, append_history, judge_window
from serving.supervisor import looks
from serving.supervisor.looks import Looks

ASKED = GoldenReport(7.0, "2", 48, 0.8, 0.9, 0.5, 4.0, "wrong")


@pytest.fixture
def report() -> WindowReport:
    noise = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    one, other = (Window(rows, {"request_id": np.arange(100).astype(str)}, 100) for rows in (noise[:100], noise[100:]))
    settings = Monitoring(permutations=19, min_requests=50)
    judged = judge_window(one, other, settings, since=0.0, until=1.0, version="1")
    return replace(judged, outcomes=[Outcome("all", "recall@1", 9, 0.5, 0.2, 0.8)])


def registry(home: Path) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(Looks(home))
    return found


def windows(home: Path) -> Path:
    return home / "monitoring" / "history.jsonl"


def test_the_last_window_of_each_version_and_the_last_golden_queries_are_read(
    tmp_path: Path, report: WindowReport
) -> None:
    alarm = replace(report, since=1.0, until=2.0, verdict="alarm", evidence=99.0)
    other = replace(report, since=1.0, until=2.0, version="2", verdict="note")
    append_history(windows(tmp_path), [alarm, other, report])  # one was judged later than the next
    for asked in (replace(ASKED, hit_at_1=0.1, problem=None), ASKED):
        golden.append(tmp_path / "monitoring" / golden.HISTORY, asked)
    found = registry(tmp_path)
    verdicts = {
        (name, version): found.get_sample_value(f"embedline_monitor_{name}", {"version": version})
        for name in ("alarm", "note")
        for version in ("1", "2")
    }
    assert verdicts == {("alarm", "1"): 1, ("note", "1"): 0, ("alarm", "2"): 0, ("note", "2"): 1}
    assert found.get_sample_value("embedline_monitor_evidence", {"version": "1"}) == 99
    assert found.get_sample_value("embedline_monitor_limit", {"version": "1"}) == report.limit
    for finding in report.findings:
        labels = {"version": "1", "slice": finding.slice, "test": finding.test}
        assert found.get_sample_value("embedline_monitor_effect", labels) == finding.effect
    assert found.get_sample_value("embedline_monitor_outcome", {"group": "all", "measure": "recall@1"}) == 0.5
    looked = found.get_sample_value("embedline_monitor_last_look_timestamp_seconds")
    assert looked == windows(tmp_path).stat().st_mtime
    answered = {name: found.get_sample_value(f"embedline_golden_{name}", {"version": "2"})
                for name in ("hit_at_1", "known_hit_at_1", "least_cosine", "wrong", "query_seconds")}  # fmt: skip
    assert answered == {
        "hit_at_1": 0.8,
        "known_hit_at_1": 0.9,
        "least_cosine": 0.5,
        "wrong": 1,
        "query_seconds": 0.004,
    }


def test_where_nobody_has_looked_there_is_nothing_and_damage_is_said(tmp_path: Path, report: WindowReport) -> None:
    assert list(registry(tmp_path).collect()) == []
    append_history(windows(tmp_path), [report])
    golden.append(tmp_path / "monitoring" / golden.HISTORY, ASKED)
    with windows(tmp_path).open("a") as file:
        file.write('{"a line that is being written')
    found = registry(tmp_path)
    assert found.get_sample_value("embedline_monitor_readable", {"history": "history"}) == 1
    with windows(tmp_path).open("a") as file:
        file.write("\n")
    assert found.get_sample_value("embedline_monitor_readable", {"history": "history"}) == 0
    assert found.get_sample_value("embedline_monitor_alarm", {"version": "1"}) is None
    assert found.get_sample_value("embedline_golden_wrong", {"version": "2"}) == 1


def test_only_the_end_of_a_long_history_is_read(
    tmp_path: Path, report: WindowReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = windows(tmp_path)
    append_history(path, [replace(report, until=float(number)) for number in range(9)])
    monkeypatch.setattr(looks, "LAST_BYTES", int(2.5 * path.stat().st_size / 9))
    assert [each["until"] for each in looks.last_reports(path)] == [7.0, 8.0]
