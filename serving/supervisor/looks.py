"""What `embedline monitor` and the golden queries last said, for Prometheus: read from their histories when it asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

WINDOWS, GOLDEN = "history", "golden"
"""The names of the two histories in the folder `monitoring`, whose lines are reports in JSON."""
LAST_BYTES = 2_000_000
"""How much of the end of a history is read; a report has some ten thousand bytes."""
Labelled = dict[tuple[str, ...], float]


class Looks(Collector):
    """Gauges of the last window, by version, and of the last golden queries of `home`; none where nobody looked yet."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "monitoring"

    def collect(self) -> Iterator[GaugeMetricFamily]:
        readable: Labelled = {}
        for name, metrics in ((WINDOWS, of_windows), (GOLDEN, of_golden)):
            path = self.folder / f"{name}.jsonl"
            try:
                found = list(metrics(last_reports(path), path.stat().st_mtime))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError):  # damaged: the rest of the metrics must stay visible
                readable[(name,)] = 0.0
            else:
                readable[(name,)] = 1.0
                yield from found
        if readable:
            yield gauge("monitor_readable", "1 if the history can be read.", ("history",), readable)


def last_reports(path: Path) -> list[dict[str, Any]]:
    """Returns the reports at the end of a history, the last one last; a line that is being written is left out."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LAST_BYTES))
        lines = file.read().split(b"\n")[int(file.tell() > LAST_BYTES) : -1]
    return [json.loads(line) for line in lines]


def of_windows(reports: Sequence[dict[str, Any]], looked: float) -> Iterator[GaugeMetricFamily]:
    """Yields what the reports of the last window say; a look changes the time of the history, `looked`."""
    yield gauge("monitor_last_look_timestamp_seconds", "When traffic was last looked at.", (), {(): looked})
    if not reports:
        return
    end = max(report["until"] for report in reports)
    last = [report for report in reports if report["until"] == end]
    by_version = {
        "alarm": "1 if an alarm stands.",
        "note": "1 if a shift that costs nothing stands.",
        "evidence": "Gathered evidence of a shift.",
        "limit": "The evidence that raises an alarm.",
        "p": "The adjusted p-value of the window.",
        "count": "Requests of the window.",
    }
    for name, meaning in by_version.items():
        values: Labelled = {
            (one["version"],): float(one["verdict"] == name) if name in ("alarm", "note") else one[name] for one in last
        }
        yield gauge(f"monitor_{name}", meaning, ("version",), values)
    effects: Labelled = {
        (one["version"], each["slice"], each["test"]): each["effect"] for one in last for each in one["findings"]
    }
    yield gauge("monitor_effect", "The size of a shift, in a test's own unit.", ("version", "slice", "test"), effects)
    outcomes: Labelled = {(each["group"], each["measure"]): each["mean"] for each in last[-1].get("outcomes", ())}
    yield gauge("monitor_outcome", "What feedback says of the window.", ("group", "measure"), outcomes)


def of_golden(reports: Sequence[dict[str, Any]], _: float) -> Iterator[GaugeMetricFamily]:
    """Yields what the last golden queries said."""
    if not reports:
        return
    last = reports[-1]
    values = {
        "hit_at_1": ("Share of golden queries whose nearest candidate is right.", last["hit_at_1"]),
        "known_hit_at_1": ("That share with the stored vectors.", last["known_hit_at_1"]),
        "least_cosine": ("Of an answered vector to the stored one.", last["least_cosine"]),
        "wrong": ("1 if the answers are not the known ones.", float(last["problem"] is not None)),
        "query_seconds": ("Median time of a golden query.", last["median_ms"] / 1000),
        "timestamp_seconds": ("When golden queries were last asked.", last["time"]),
    }
    for name, (meaning, value) in values.items():
        yield gauge(f"golden_{name}", meaning, ("version",), {(last["version"],): value})


def gauge(name: str, meaning: str, labels: Sequence[str], values: Labelled) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"embedline_{name}", meaning, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family
