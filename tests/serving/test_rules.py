"""Every alert fires on the trouble that it is for, and on nothing else: `promtool` plays series to the rules."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
NIGHT = 54
"""Steps of ten minutes, at which the series of the alert on hours stand; those of others stand for a minute."""
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
        [{UP: f"1x{NIGHT}", LOOK: f"0x{NIGHT}"}, {UP: f"1x{NIGHT}"}],
        [{UP: f"1x{NIGHT}", LOOK: f"0+600x{NIGHT}"}, {'up{job="gateway",instance="x"}': f"1x{NIGHT}"}],
    ),
    "EmbedlineMonitorUnreadable": (
        {"history": "golden", "severity": "warning"},
        [{'embedline_monitor_readable{history="golden"}': "0x40"}],
        [{'embedline_monitor_readable{history="golden"}': "1x40"}],
    ),
    "EmbedlineTrafficLost": ({"instance": "x", "severity": "warning"}, [{LOST: "0x20 1+1x20"}], [{LOST: "5x40"}]),
}
"""By alert: its labels, what it fires on, and what it must not fire on."""


def played(folder: Path, alert: str, cases: list[tuple[Series, bool]]) -> subprocess.CompletedProcess[str]:
    """Plays each series to the rules, and expects that the alert stands at its end, or that it does not."""
    labels = CASES[alert][0]
    minutes, step = (480, "10m") if alert == "EmbedlineMonitorSilent" else (35, "1m")
    tests = [
        {
            "interval": step,
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {
                    "eval_time": f"{minutes}m",
                    "alertname": alert,
                    "exp_alerts": [{"exp_labels": labels}] if fires else [],
                }
            ],
        }
        for series, fires in cases
    ]
    file = folder / "test.yml"
    test = {"rule_files": [silent_rules(folder)], "evaluation_interval": step, "tests": tests}
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    return subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)


def silent_rules(folder: Path) -> str:
    """Returns a copy of the rules without annotations: promtool compares these too, and their words are free."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    copy = folder / "rules.yml"
    copy.write_text(yaml.safe_dump(rules), encoding="utf-8")
    return str(copy)


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
    _, troubles, calm = CASES[alert]
    cases = [*((series, True) for series in troubles), *((series, False) for series in calm)]
    right = played(tmp_path, alert, cases)
    assert right.returncode == 0, right.stdout + right.stderr
    wrong = played(tmp_path, alert, [(series, not fires) for series, fires in cases])
    assert wrong.returncode == 1, "promtool must see that the opposite is not so"
    assert (wrong.stdout + wrong.stderr).count(f"alertname: {alert}") == len(cases)


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    assert set(alerts) == set(CASES)
    assert all({"summary", "action"} == set(rule["annotations"]) for rule in alerts.values())
