"""The windows since the last time, one after the other: what to judge, against what, and what was found before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from components.errors import UsageError
from components.monitoring.config import Monitoring
from components.traffic import Window, forget, read_column, read_feedback, read_window
from components.workspace import FEEDBACK, STATE
from monitoring import golden
from monitoring.outcomes import outcomes
from monitoring.page import write_history
from monitoring.policies import DAY
from monitoring.quality import reciprocal_rank
from monitoring.reference import Known, first_requests
from monitoring.report import WindowReport, append_history, judge_window, last_before

HISTORY = STATE / "monitoring" / "history.jsonl"
PAGE = "index.html"


@dataclass(frozen=True)
class Period:
    """A stretch of time, in seconds since 1970, UTC."""

    since: float
    until: float


def past_period(since: datetime | None, until: datetime | None) -> Period | None:
    """Returns the stretch between two times, UTC where they name no zone, open where one is None; None for neither.

    Raises `UsageError` if it ends before it begins.
    """
    if since is None and until is None:
        return None
    start, end = (
        otherwise if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        for at, otherwise in ((since, -np.inf), (until, np.inf))
    )
    if end <= start:
        raise UsageError(f"the past from {since} to {until} has no windows", "Name a later end.")
    return Period(start, end)


def judge_traffic(
    traffic: Path,
    known: Callable[[str], Known],
    settings: Monitoring,
    history: Sequence[WindowReport],
    now: float,
    *,
    kept: Path = HISTORY.parent,
    past: Period | None = None,
) -> Iterator[list[WindowReport]]:
    """Yields, for each full window that ended since the last one of `history`, a report of each model version; with
    `past`, for each of that stretch of time which no report of `history` covers.

    `known` gives what a version is compared with, unless that is its first requests, which lie in `kept` then. Feedback
    is read from the folder `feedback` beside `traffic`; quality is compared with all feedback before the window. Raises
    as `read_window`, `judge_window` and `known` do.
    """
    everything = list(history)
    start = past.since if past else max((report.until for report in history), default=None)
    for period in periods(traffic, settings, start, min(now, past.until) if past else now):
        if past and period.since < past.since:
            continue
        reports = []
        feedback = traffic.with_name(FEEDBACK.name)
        taken = read_feedback(feedback, period.since, period.until)
        quality = reciprocal_rank(read_feedback(feedback, -np.inf, period.since).values(), taken.values())
        said = outcomes(traffic, taken, period.since, period.until, settings.slices)
        for version in _versions(traffic, period):
            of_version = [report for report in everything if report.version == version]
            if past and any(report.since < period.until and period.since < report.until for report in of_version):
                continue
            compared, window = _sides(traffic, known(version), settings, period, version, kept)
            found = judge_window(
                compared.reference, window, settings, since=period.since, until=period.until, version=version,
                before=last_before(everything, version, period.since), training=compared.training,
                concepts=compared.concepts, quality=quality,
            )  # fmt: skip
            reports.append(replace(found, outcomes=said, backfilled=past is not None))
        everything += reports
        yield reports


def look(
    traffic: Path,
    known: Callable[[str], Known],
    settings: Monitoring,
    history: Path,
    before: Sequence[WindowReport],
    past: Period | None = None,
) -> Iterator[list[WindowReport]]:
    """Yields what `judge_traffic` does, each once it is kept in the file `history`, of which `before` was read; removes
    at the end what is older than `monitoring.retention_days`, and writes the page of all looks beside the history,
    whose own time then tells of the last look. Raises as `judge_traffic` and `write_history` do."""
    now, everything = time.time(), list(before)
    for reports in judge_traffic(traffic, known, settings, before, now, kept=history.parent, past=past):
        append_history(history, reports)
        everything += reports
        yield reports
    if settings.retention_days:
        forget(traffic, now - settings.retention_days * DAY)
    asked = golden.read_history(history.with_name(golden.HISTORY))
    write_history(history.with_name(PAGE), traffic, everything, asked, settings.level)
    history.touch()


def _sides(
    traffic: Path, known: Known, settings: Monitoring, period: Period, version: str, kept: Path
) -> tuple[Known, Window]:
    """Returns what a window is compared with, and its requests: those after the reference, if that is traffic too."""
    since = period.since
    if settings.reference_requests:
        if (own := first_requests(traffic, version, settings, kept)) is None:
            return known, Window(np.empty((0, 0), np.float32), {}, 0)
        known = replace(known, reference=own)
        since = max(since, float(np.nextafter(own.columns["time"].max(), np.inf)))
    window = read_window(traffic, since, period.until, version=version or None, most=settings.most, seed=settings.seed)
    return known, window


def periods(traffic: Path, settings: Monitoring, start: float | None, now: float) -> Iterator[Period]:
    """Yields the full windows from `start` (None: the first request) to `now` that have a request, in order."""
    times = np.sort(read_column(traffic, "time", -np.inf if start is None else start, now))
    if settings.requests_a_window:
        size = settings.requests_a_window
        ends = times[size - 1 :: size]
        since = start if start is not None and np.isfinite(start) else float(times.min(initial=now))
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
