"""Every alert fires on the trouble that it is for, and on nothing else: `promtool` plays series to the rules."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
HOUR = 60
"""Minutes; a value of a series stands for a minute."""
REQUESTS = 'embedline_gateway_requests_total{job="gateway",status="%s"}'
SECONDS = 'embedline_gateway_seconds_bucket{job="gateway",le="%s"}'
UP = 'up{job="supervisor",instance="x"}'
LOOK, LOST = "embedline_monitor_last_look_timestamp_seconds", 'embedline_traffic_lost_rows{instance="x"}'
GOLDEN = 'embedline_golden_%s{version="3"}'
Series = dict[str, str]
CASES: dict[str, tuple[dict[str, str], list[Series], list[Series]]] = {
    "EmbedlineEndpointDown": (
        {"job": "triton", "instance": "x", "severity": "critical"},
        [{'up{job="triton",instance="x"}': "1x20 0x20"}],
        [{'up{job="triton",instance="x"}': "1x40"}, {'up{job="node",instance="x"}': "0x40"}],
    ),
    "EmbedlineKnownAnswersWrong": (
        {"process": "triton", "severity": "critical"},
        [{'embedline_supervisor_healthy{process="triton"}': "1x20 0x20"}],
        [{'embedline_supervisor_healthy{process="triton"}': "1x40"}],
    ),
    "EmbedlineSlow": (
        {"severity": "warning"},
        [{SECONDS % "1": "0+90x40", SECONDS % "2.5": "0+100x40", SECONDS % "+Inf": "0+100x40"}],
        [{SECONDS % "1": "0+100x40", SECONDS % "2.5": "0+100x40", SECONDS % "+Inf": "0+100x40"}],
    ),
    "EmbedlineErrors": (
        {"severity": "critical"},
        [{REQUESTS % 200: "0+95x40", REQUESTS % 503: "0+5x40"}, {REQUESTS % 503: "0+5x40"}],
        [{REQUESTS % 200: "0+999x40", REQUESTS % 503: "0+1x40"}, {REQUESTS % 200: "0+9x40", REQUESTS % 429: "0+9x40"}],
    ),
    "EmbedlineQueueRejects": (
        {"severity": "warning"},
        [{'nv_inference_request_failure{reason="REJECTED"}': "0+2x40"}],
        [
            {'nv_inference_request_failure{reason="REJECTED"}': "7x40"},
            {'nv_inference_request_failure{reason="CANCELED"}': "0+2x40"},
        ],
    ),
    "EmbedlineDriftAlarm": (
        {"version": "3", "severity": "warning"},
        [{'embedline_monitor_alarm{version="3"}': "0x20 1x20"}],
        [{'embedline_monitor_alarm{version="3"}': "0x40", 'embedline_monitor_note{version="3"}': "1x40"}],
    ),
    "EmbedlineGoldenAnswersWrong": (
        {"version": "3", "severity": "critical"},
        [
            {GOLDEN % "wrong": "1x40"},
            {GOLDEN % "wrong": "0x40", GOLDEN % "known_hit_at_1": "0.9x40", GOLDEN % "hit_at_1": "0.85x40"},
        ],
        [{GOLDEN % "wrong": "0x40", GOLDEN % "known_hit_at_1": "0.9x40", GOLDEN % "hit_at_1": "0.89x40"}],
    ),
    "EmbedlineMonitorSilent": (
        {"severity": "warning"},
        [{UP: f"1x{9 * HOUR}", LOOK: f"0x{9 * HOUR}"}, {UP: f"1x{9 * HOUR}"}],
        [{UP: f"1x{9 * HOUR}", LOOK: f"0+60x{9 * HOUR}"}, {'up{job="gateway",instance="x"}': f"1x{9 * HOUR}"}],
    ),
    "EmbedlineMonitorUnreadable": (
        {"history": "golden", "severity": "warning"},
        [{'embedline_monitor_readable{history="golden"}': "0x40"}],
        [{'embedline_monitor_readable{history="golden"}': "1x40"}],
    ),
    "EmbedlineTrafficLost": ({"instance": "x", "severity": "warning"}, [{LOST: "0x20 1+1x20"}], [{LOST: "5x40"}]),
}
"""By alert: its labels, what it fires on, and what it must not fire on."""


def played(folder: Path, alert: str, series: Series, labels: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    """Plays the series to the rules, and expects the alert at their end with these labels, or no alert for None."""
    minutes = 8 * HOUR if alert == "EmbedlineMonitorSilent" else 35
    expected = [] if labels is None else [{"exp_labels": labels}]
    test: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": expected}],
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(without_annotations(test, folder)), encoding="utf-8")
    return subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)


def without_annotations(test: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the test with rules that say nothing: promtool compares annotations too, whose words are free."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    copy = folder / "rules.yml"
    copy.write_text(yaml.safe_dump(rules), encoding="utf-8")
    return {**test, "rule_files": [str(copy)]}


@pytest.mark.system("prometheus")
@pytest.mark.parametrize("name", ["compose.yml", "machine.yml"])
def test_promtool_takes_the_configuration_with_its_rules(name: str) -> None:
    command = ["promtool", "check", "config", str(RULES.with_name(name))]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 rule files found" in checked.stdout


@pytest.mark.system("prometheus")
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_on_its_trouble_and_on_nothing_else(alert: str, tmp_path: Path) -> None:
    labels, troubles, calm = CASES[alert]
    for series in troubles:
        fired = played(tmp_path, alert, series, labels)
        assert fired.returncode == 0, fired.stdout + fired.stderr
        assert played(tmp_path, alert, series, None).returncode == 1, "promtool must see the alert"
    for series in calm:
        silent = played(tmp_path, alert, series, None)
        assert silent.returncode == 0, silent.stdout + silent.stderr
        assert played(tmp_path, alert, series, labels).returncode == 1


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    assert set(alerts) == set(CASES)
    assert all({"summary", "action"} == set(rule["annotations"]) for rule in alerts.values())
