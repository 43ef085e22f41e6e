"""The windows since the last time, one after the other: what to judge, against what, and what was found before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.embedder import Vectors
from components.monitoring.config import Monitoring
from components.traffic import Window, forget, read_column, read_feedback, read_window
from components.workspace import STATE
from monitoring import golden
from monitoring.outcomes import outcomes
from monitoring.page import write_history
from monitoring.policies import DAY
from monitoring.quality import Quality, reciprocal_rank
from monitoring.report import Concepts, WindowReport, append_history, judge_window

TRAFFIC, FEEDBACK = STATE / "traffic", "feedback"
HISTORY = STATE / "monitoring" / "history.jsonl"
PAGE = "index.html"


@dataclass(frozen=True)
class Period:
    """A stretch of time, in seconds since 1970, UTC."""

    since: float
    until: float


def judge_traffic(
    traffic: Path,
    reference: Window,
    settings: Monitoring,
    history: list[WindowReport],
    now: float,
    *,
    training: Vectors | None = None,
    concepts: Concepts | None = None,
) -> Iterator[list[WindowReport]]:
    """Yields, for each full window that ended since the last one of `history`, a report of each model version.

    Feedback is read from the folder `feedback` beside `traffic`; quality is compared with all feedback before the
    window. Raises as `read_window` and `judge_window` do.
    """
    last = {report.version: report for report in history}
    start = max((report.until for report in history), default=None)
    for period in periods(traffic, settings, start, now):
        feedback = traffic.with_name(FEEDBACK)
        quality = _quality(feedback, period)
        taken = outcomes(traffic, feedback, period.since, period.until, settings.slices)
        for version in _versions(traffic, period):
            window = read_window(
                traffic, period.since, period.until, version=version or None, most=settings.most, seed=settings.seed
            )
            report = judge_window(
                reference, window, settings, since=period.since, until=period.until, version=version,
                before=last.get(version), training=training, concepts=concepts, quality=quality,
            )  # fmt: skip
            last[version] = replace(report, outcomes=taken)
        yield [report for report in last.values() if report.since == period.since]


def look(
    traffic: Path, reference: Window, settings: Monitoring, history: Path, before: list[WindowReport]
) -> Iterator[list[WindowReport]]:
    """Yields what `judge_traffic` does since the last of `before`, each once it is kept in the file `history`; removes
    at the end what is older than `monitoring.retention_days`, and writes the page of all looks beside the history,
    whose own time then tells of the last look. Raises as `judge_traffic` and `write_history` do."""
    now, everything = time.time(), list(before)
    for reports in judge_traffic(traffic, reference, settings, before, now):
        append_history(history, reports)
        everything += reports
        yield reports
    if settings.retention_days:
        forget(traffic, now - settings.retention_days * DAY)
    known = golden.read_history(history.with_name(golden.HISTORY))
    write_history(history.with_name(PAGE), traffic, everything, known, settings.level)
    history.touch()


def periods(traffic: Path, settings: Monitoring, start: float | None, now: float) -> Iterator[Period]:
    """Yields the full windows from `start` (None: the first request) to `now` that have a request, in order."""
    times = np.sort(read_column(traffic, "time", -np.inf if start is None else start, now))
    if settings.requests_a_window:
        size = settings.requests_a_window
        ends = times[size - 1 :: size]
        since = start if start is not None else (float(times[0]) if len(times) else 0.0)
        for end in ends:
            until = float(np.nextafter(end, np.inf))
            yield Period(since, until)
            since = until
        return
    length = DAY / settings.windows_a_day
    for number in np.unique(times // length):
        if (number + 1) * length <= now:
            yield Period(float(number * length), float((number + 1) * length))


def _versions(traffic: Path, period: Period) -> list[str]:
    return sorted({str(version) for version in read_column(traffic, "model_version", period.since, period.until)}) or [
        ""
    ]


def _quality(feedback: Path, period: Period) -> Quality | None:
    before = read_feedback(feedback, -np.inf, period.since)
    return reciprocal_rank(before.values(), read_feedback(feedback, period.since, period.until).values())
