"""`embedline monitor` and `embedline backtest` on a folder of traffic, as a person calls them."""

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prefect.logging import disable_run_logger

from cli.main import main
from components.monitoring.config import Monitoring
from components.traffic import Feedback, Request, TrafficWriter, Window, feedback_table, forget
from flows.monitor import monitor
from monitoring.policies import DAY
from monitoring.reference import Known
from monitoring.report import WindowReport, read_history
from monitoring.watch import Period, judge_traffic, periods
from serving.events import read_events

Draw = Callable[..., Window]
Command = Callable[..., tuple[int, Any]]
ROOT = Path(__file__).parents[2]
SETTINGS = {
    "windows_a_day": 4,
    "false_alarms_per_month": 12,
    "permutations": 499,
    "min_requests": 50,
    "slices": ["modality"],
}
START = 80_000 * DAY / 4
ALARM_STANDS = 5


def send(traffic: Path, window: Window, number: int, version: str = "1") -> None:
    """Records the requests of a window in the `number`-th quarter of a day."""
    with TrafficWriter(traffic) as writer:
        for row, vector in enumerate(window.vectors):
            when = START + (number + (row + 0.5) / len(window)) * DAY / 4
            name = f"{number}-{window.columns['request_id'][row]}"
            writer.record(Request(when, name, vector, str(window.columns["modality"][row]), version))


@pytest.fixture
def command(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in the workspace, and returns its exit code and what it printed."""
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: str) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["embedline", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr().out
        return int(ended.value.code or 0), json.loads(printed) if "--json" in arguments else printed

    return called


@pytest.fixture
def workspace(tmp_path: Path, draw: Draw) -> Path:
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    policies = {"eager": {"alarms": 1}, "patient": {"alarms": 2, "of_windows": 2}}
    parameters["monitoring"] = {**SETTINGS, "policies": policies}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    reference = draw(500, 0)
    (tmp_path / "artifacts" / "bundle").mkdir(parents=True)
    ones = np.ones(500, np.float32)
    np.savez(tmp_path / "artifacts/bundle/reference.npz", vectors=reference.vectors, norms=ones, top1=ones,
             modalities=reference.columns["modality"], tasks=np.array(["a"] * 500))  # fmt: skip
    return tmp_path


def test_traffic_is_judged_once_an_alarm_stands_and_goes_when_the_shift_goes(
    workspace: Path, command: Command, draw: Draw
) -> None:
    traffic = workspace / ".embedline" / "traffic"
    send(traffic, draw(300, 1), 0)
    code, reports = command("monitor", "--json")
    assert (code, [report["verdict"] for report in reports]) == (0, ["ok"])
    assert command("monitor", "--json") == (0, [])
    send(traffic, draw(300, 2, shift=1.5), 1)
    send(traffic, draw(300, 3, shift=1.5), 2)
    code, table = command("monitor")
    assert code == ALARM_STANDS
    assert "alarm" in table and "moved most" in table
    assert command("monitor", "--json") == (ALARM_STANDS, []), "nothing new, and the alarm still stands"
    send(traffic, draw(300, 5), 3)
    assert command("monitor", "--json")[0] == 0
    history = (workspace / ".embedline/monitoring/history.jsonl").read_text().splitlines()
    assert len(history) == 4

    code, found = command("backtest", "all", "--json")
    assert (code, {each["policy"]: len(each["retrainings"]) for each in found})[0] == 0
    eager, patient = (next(each for each in found if each["policy"] == name) for name in ("eager", "patient"))
    assert len(eager["retrainings"]) >= len(patient["retrainings"])
    assert eager["retrainings"][0]["reason"] == "1 of the last 1 windows are alarms"
    assert "eager" in command("backtest", "eager")[1]
    assert command("backtest", "nothing")[0] == 2


def test_a_past_period_is_a_reference_too_and_bad_input_is_explained(
    workspace: Path, command: Command, draw: Draw
) -> None:
    code, error = command("monitor", "--json")
    assert (code, error["error"]) == (2, ".embedline/traffic: no such folder")
    assert command("backtest", "--json")[0] == 2
    for number in range(3):
        send(workspace / "elsewhere", draw(300, number + 1, shift=1.5), number)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(START + DAY / 4))
    arguments = ("monitor", "--traffic", "elsewhere", "--healthy-until", day, "--json")
    code, reports = command(*arguments)
    assert (code, {report["verdict"] for report in reports}) == (0, {"ok"})
    assert len(list((workspace / "elsewhere").rglob("*.parquet"))) == 3
    parameters = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))
    parameters["monitoring"]["retention_days"] = (time.time() - START - DAY / 4) / DAY
    (workspace / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    command(*arguments)
    assert len(list((workspace / "elsewhere").rglob("*.parquet"))) == 2


def test_windows_by_time_are_whole_and_windows_by_count_have_that_many(tmp_path: Path, draw: Draw) -> None:
    for number in (0, 1, 3):
        send(tmp_path, draw(100, number), number)
    settings, now = Monitoring.model_validate(SETTINGS), START + 3.5 * DAY / 4
    expected = [Period(START, START + DAY / 4), Period(START + DAY / 4, START + 2 * DAY / 4)]
    assert list(periods(tmp_path, settings, None, now)) == expected, "the fourth has not ended"
    assert list(periods(tmp_path, settings, expected[0].until, now)) == expected[1:]
    by_count = settings.model_copy(update={"requests_a_window": 80})
    found = list(periods(tmp_path, by_count, None, now))
    assert len(found) == 3  # of the 300 requests, the last 50 have not come yet
    assert [
        judged[0].count for judged in judge_traffic(tmp_path, lambda _: Known(draw(300, 9)), by_count, [], now)
    ] == [80, 80, 80]


def test_versions_are_judged_apart_and_feedback_tells_of_harm(tmp_path: Path, draw: Draw) -> None:
    traffic = tmp_path / "traffic"
    for number in range(2):
        send(traffic, draw(200, 10 + number), number, "1")
        send(traffic, draw(200, 20 + number, shift=1.5), number, "2")
    with TrafficWriter(tmp_path / "feedback", table=feedback_table) as writer:
        for number, rank in ((0, 1), (1, 5)):
            for row in range(100):
                writer.record(Feedback(START + (number + row / 100) * DAY / 4, f"{number}-{row}", rank + row % 2))
    settings = Monitoring.model_validate(SETTINGS)
    reports = [
        each
        for found in judge_traffic(traffic, lambda _: Known(draw(500, 0)), settings, [], START + DAY)
        for each in found
    ]
    assert [(report.version, report.since) for report in reports] == [
        ("1", START), ("2", START), ("1", START + DAY / 4), ("2", START + DAY / 4),
    ]  # fmt: skip
    assert [(report.stands, report.harm) for report in reports][2:] == [(False, True), (True, True)]
    assert reports[0].quality is None
    assert reports[2].quality and reports[2].quality.window == pytest.approx((1 / 5 + 1 / 6) / 2)


def moment(number: float) -> str:
    """The beginning of the `number`-th quarter of a day, as `--from` and `--to` take it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(START + number * DAY / 4))


def test_past_windows_are_judged_later_once_with_their_own_time(workspace: Path, command: Command, draw: Draw) -> None:
    for number, shift in enumerate((0, 1.5, 0, 0)):
        send(workspace / ".embedline" / "traffic", draw(300, number + 1, shift=shift), number)
    complete = command("monitor", "--json")[1]
    history = workspace / ".embedline/monitoring/history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[2:]))
    assert command("monitor", "--json") == (0, []), "what lies before the last look is not judged by itself"
    code, found = command("monitor", "--from", moment(1), "--to", moment(3), "--json")
    assert [(one["since"], one["verdict"], one["backfilled"]) for one in found] == [(START + DAY / 4, "alarm", True)]
    assert code == 0, "an alarm of the past does not stand now"
    code, found = command("monitor", "--to", moment(4), "--json")
    assert [one["since"] for one in found] == [START]
    assert command("monitor", "--from", moment(0), "--to", moment(4), "--json")[1] == []
    kept = read_history(history)
    assert [report.since for report in kept] == [one["since"] for one in complete]
    assert [report.p for report in kept] == [one["p"] for one in complete], "a window is judged as it was"
    assert command("monitor", "--from", moment(2), "--to", moment(1))[0] == 2


@pytest.mark.parametrize("backfilled", [False, True])
def test_a_flow_over_the_past_alerts_nobody_and_starts_no_retraining(
    workspace: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, backfilled: bool
) -> None:
    emitted: list[str] = []
    monkeypatch.chdir(workspace)
    monkeypatch.setattr("flows.monitor.create_table_artifact", lambda *_, **__: None)
    monkeypatch.setattr("flows.monitor.emit_event", lambda name, **_: emitted.append(name))
    parameters = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))
    parameters["monitoring"]["retrain"] = "eager"
    (workspace / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    send(workspace / ".embedline" / "traffic", draw(300, 2, shift=1.5), 1)
    with disable_run_logger():
        past: dict[str, Any] = {"since": datetime(1970, 1, 1), "until": datetime.now()} if backfilled else {}
        reason = monitor.fn(**past)
        again = monitor.fn()
    alerts = workspace / ".embedline" / "alerts.log"
    assert (bool(reason), bool(emitted), alerts.is_file()) == ((not backfilled,) * 3)
    assert again is None and len(emitted) == int(not backfilled), "nor does the next look"
    assert [report.verdict for report in read_history(workspace / ".embedline/monitoring/history.jsonl")] == ["alarm"]


def test_people_hear_once_that_quality_fell_though_nothing_shifted(
    workspace: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setattr("flows.monitor.create_table_artifact", lambda *_, **__: None)
    ranks = (1, 1, 9, 9, 1)
    for number, rank in enumerate(ranks):
        send(workspace / ".embedline" / "traffic", draw(300, number + 1), number)
        with TrafficWriter(workspace / ".embedline" / "feedback", feedback_table) as feedback:
            for row in range(50):
                feedback.record(Feedback(START + (number + 0.5) * DAY / 4, f"{number}-{row}", rank + row % 2))
    with disable_run_logger():
        monitor.fn()
    reports = read_history(workspace / ".embedline/monitoring/history.jsonl")
    assert [(report.verdict, report.stands) for report in reports] == [
        ("ok", False), ("ok", False), ("alarm", False), ("alarm", False), ("ok", False),
    ]  # fmt: skip
    (alert,) = (workspace / ".embedline" / "alerts.log").read_text(encoding="utf-8").splitlines()
    assert "quality fell, version 1" in alert and "mean reciprocal rank fell from 0.750 to 0.106" in alert
    (event,) = [each for each in read_events(workspace / ".embedline") if each["kind"] == "quality_fell"]
    assert (event["until"], event["answers"]) == (reports[2].until, 50)


def test_the_first_requests_of_a_version_can_be_its_reference(tmp_path: Path, draw: Draw) -> None:
    """A version that was trained for shifted traffic is not compared with what came before; forgetting keeps them."""
    traffic = tmp_path / "traffic"
    settings = Monitoring.model_validate(SETTINGS | {"reference_requests": 400})
    shifts = (0, 0, 0, 1.5, 1.5, 1.5, 1.5, 0)
    for number, shift in enumerate(shifts):
        send(traffic, draw(300, number, shift=shift), number, "1" if number < 4 else "2")

    def judged(history: list[WindowReport]) -> list[WindowReport]:
        found = judge_traffic(
            traffic, lambda _: Known(draw(500, 99)), settings, history, START + 2 * DAY, kept=tmp_path
        )
        return [report for reports in found for report in reports]

    reports = judged([])
    assert [report.version for report in reports] == ["1"] * 4 + ["2"] * 4
    assert [report.verdict for report in reports] == ["too few", "ok", "ok", "alarm"] * 2
    assert [report.count for report in reports][:3] == [0, 200, 300], "those of the reference are not judged"
    forget(traffic, START + 1.5 * DAY / 4)
    assert [(report.p, report.verdict) for report in judged(reports[:2])] == [
        (report.p, report.verdict) for report in reports[2:]
    ]


def test_training_vectors_and_concepts_of_the_bundle_are_used(workspace: Path, command: Command, draw: Draw) -> None:
    path = workspace / "artifacts/bundle/reference.npz"
    with np.load(path) as arrays:
        held: dict[str, Any] = dict(arrays)
    concepts: dict[str, Any] = {
        "concepts": np.array(["the shifted direction", "another"]),
        "concept_vectors": np.eye(16)[[15, 0]],
    }
    np.savez(path, **held, **concepts, training=draw(400, 50).vectors)
    send(workspace / ".embedline" / "traffic", draw(300, 2, shift=1.5), 0)
    (report,) = command("monitor", "--json")[1]
    assert "neighbour_distance" in {one["test"] for one in report["findings"] if one["adjusted"] <= 0.05}
    assert {one["concepts"][0] for one in report["moved"]} == {"the shifted direction"}
    np.savez(path, **held)
    send(workspace / ".embedline" / "traffic", draw(300, 3, shift=1.5), 1)
    (older,) = command("monitor", "--json")[1]
    assert older["skipped"]["all, neighbour_distance"] == "no training vectors are given"
