"""What is said of one window: whether it shifted, where, by how much, which requests moved, and whether it did harm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components import json_lines
from components.embedder import Vectors
from components.errors import DataInvalid
from components.monitoring.config import TESTS, Monitoring
from components.traffic import Window
from monitoring.calibration import gathered, threshold
from monitoring.drift.mmd import witness
from monitoring.outcomes import Outcome
from monitoring.permutations import Inapplicable, Measured, p_value, pooled, step_down
from monitoring.projection import Projection, project
from monitoring.quality import Quality

WHOLE = "all"
MOVED, NEAREST = 10, 3
OK, NOTE, ALARM, TOO_FEW = "ok", "note", "alarm", "too few"
Concepts = tuple[Sequence[str], Vectors]
"""Names, and the vectors that the model gives them."""


@dataclass(frozen=True)
class Finding:
    """One test on one slice: `p` alone, `adjusted` for all tests and slices of the window, and the shift's size."""

    slice: str
    test: str
    p: float
    adjusted: float
    effect: float
    unit: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """A request of the window, of those that lie where it is denser than the reference, most so first, by `excess`."""

    request_id: str
    excess: float
    concepts: list[str]


@dataclass(frozen=True)
class WindowReport:
    """One window, judged. `p` is that of the whole window, `evidence` what it and those before gathered, against the
    `limit` that raises an alarm. `raised` is whether this window raised one, `stands` whether it or an earlier one
    still holds. `verdict` is `ok`; `note`, a shift that provably cost nothing; `alarm`, any other shift, or harm; or
    `too few` requests. `findings` are sorted, the most certain first; `skipped` says why a test was not made.
    `projection` has `moved` in their order; `outcomes` are those of all versions. A `backfilled` window was judged
    later than those after it: nobody is alerted, and nothing retrained, because of it.
    """

    since: float
    until: float
    version: str
    count: int
    compared: int
    reference: int
    verdict: str
    p: float
    evidence: float
    limit: float
    raised: bool
    stands: bool
    harm: bool
    quality: Quality | None
    findings: list[Finding]
    moved: list[Moved]
    skipped: dict[str, str]
    projection: Projection | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    backfilled: bool = False

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> WindowReport:
        """Returns the report with these facts, as JSON holds them. Raises `TypeError` if it is none."""
        parts: dict[str, Any] = {
            "quality": Quality(**facts["quality"]) if facts["quality"] else None,
            "findings": [Finding(**each) for each in facts["findings"]],
            "moved": [Moved(**each) for each in facts["moved"]],
            "projection": Projection(**facts["projection"]) if facts.get("projection") else None,
            "outcomes": [Outcome(**each) for each in facts.get("outcomes", ())],
        }
        return cls(**{**facts, **parts})


def judge_window(
    reference: Window,
    window: Window,
    settings: Monitoring,
    *,
    since: float,
    until: float,
    version: str = "",
    before: WindowReport | None = None,
    training: Vectors | None = None,
    concepts: Concepts | None = None,
    quality: Quality | None = None,
) -> WindowReport:
    """Returns what there is to say of a window; `before` is the report of the one before it of the same version.

    The tests of a slice are adjusted by step-down maxT, the slices by Holm. Raises `DataInvalid` if the two have
    vectors of different dimensions.
    """
    reference, window = _at_most(reference, settings), _at_most(window, settings)
    _comparable(reference, window)
    evidence, stood = (before.evidence, before.stands) if before else (0.0, False)
    evidence = 0.0 if before and before.raised else evidence
    findings: list[Finding] = []
    skipped: dict[str, str] = {}
    p = 1.0
    enough = len(window) >= settings.min_requests
    if enough:
        found, skipped = _tested(reference, window, settings, [settings.seed, int(since)], training)
        findings = _adjusted(found)
        p = min((finding.adjusted for finding in findings), default=1.0)
        evidence = gathered(evidence, p, settings.kappa)
    limit = threshold(settings.false_alarms_per_month, settings.windows_a_day)
    raised = enough and evidence >= limit
    stands = raised or (stood and (p <= settings.level or not enough))
    harm = quality is not None and quality.drop_low > 0 and quality.drop >= settings.harm
    harmless = quality is not None and quality.drop_high < settings.harm
    verdict = ALARM if harm or (stands and not harmless) else NOTE if stands else OK if enough else TOO_FEW
    moved = _moved(reference, window, findings[0].slice, concepts) if findings and p <= settings.level else []
    projection = project(reference, window, [one.request_id for one in moved], settings.seed)
    return WindowReport(
        since, until, version, window.count, len(window), len(reference), verdict, p, evidence, limit, raised, stands,
        harm, quality, findings, moved, skipped, projection,
    )  # fmt: skip


def last_before(reports: Iterable[WindowReport], version: str, since: float) -> WindowReport | None:
    """Returns the report of the last window of a version that had ended by then."""
    earlier = (report for report in reports if report.version == version and report.until <= since)
    return max(earlier, key=lambda report: report.until, default=None)


def append_history(path: Path, reports: Iterable[WindowReport]) -> None:
    """Adds a line a report to a history."""
    json_lines.append(path, map(asdict, reports))


def read_history(path: Path) -> list[WindowReport]:
    """Returns the reports of a history in the order of time, none if there is no such file; a last line that was cut
    off is left out.

    Raises `DataInvalid` that names any other line that is no report.
    """
    return sorted(json_lines.read(path, WindowReport.of, "report of a window"), key=lambda report: report.until)


def _at_most(window: Window, settings: Monitoring) -> Window:
    if len(window) <= settings.most:
        return window
    drawn = np.random.default_rng(settings.seed).permutation(len(window))[: settings.most]
    return replace(window.where(np.sort(drawn)), count=window.count)


def _comparable(reference: Window, window: Window) -> None:
    ours, theirs = window.vectors.shape[1], reference.vectors.shape[1]
    if ours and theirs and ours != theirs:
        raise DataInvalid(
            f"the window's vectors have {ours} numbers, the reference's {theirs}",
            "Compare a model version with a reference of its own.",
        )


def _slices(
    reference: Window, window: Window, settings: Monitoring
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yields the whole, and the slices that have enough requests on both sides, with their rows on both."""
    yield WHOLE, np.ones(len(reference), bool), np.ones(len(window), bool)
    for column in settings.slices:
        if column not in reference.columns or column not in window.columns:
            continue
        for value in np.unique(window.columns[column]):
            sides = [side.columns[column] == value for side in (reference, window)]
            enough = all(rows.sum() >= settings.min_requests for rows in sides)
            if value and enough and not all(rows.all() for rows in sides):
                yield f"{column} {value}", *sides


def _tested(
    reference: Window, window: Window, settings: Monitoring, seed: list[int], training: Vectors | None
) -> tuple[dict[str, dict[str, Measured]], dict[str, str]]:
    """Returns what each test found, by slice and by test, and why others were not made."""
    found: dict[str, dict[str, Measured]] = {}
    skipped = {}
    tests = [(test, TESTS.of(test)) for test in settings.chosen()]
    for name, *rows in _slices(reference, window, settings):
        sides = reference.where(rows[0]), window.where(rows[1])
        samples = pooled(*sides, settings.permutations, seed, settings.block, training)
        for test, module in tests:
            try:
                found.setdefault(name, {})[test.name] = module.measure(test, samples)
            except Inapplicable as reason:
                skipped[f"{name}, {test.name}"] = str(reason)
    return {name: tests for name, tests in found.items() if tests}, skipped


def _adjusted(found: Mapping[str, Mapping[str, Measured]]) -> list[Finding]:
    """Returns all findings, the most certain first (S. Holm 1979 across slices, step-down maxT within each)."""
    within = {name: step_down([measured.values for measured in tests.values()]) for name, tests in found.items()}
    findings: list[Finding] = []
    at_least = 0.0
    for rank, name in enumerate(sorted(within, key=lambda name: min(within[name]))):
        at_least = max(at_least, min(1.0, (len(within) - rank) * min(within[name])))
        for (test, measured), p in zip(found[name].items(), within[name], strict=True):
            adjusted = max(at_least, min(1.0, (len(within) - rank) * p))
            findings.append(
                Finding(name, test, p_value(measured.values), adjusted, measured.effect, measured.unit,
                        dict(measured.detail))
            )  # fmt: skip
    return sorted(findings, key=lambda finding: (finding.adjusted, finding.p))


def _moved(reference: Window, window: Window, name: str, concepts: Concepts | None) -> list[Moved]:
    """Returns the requests of a slice that moved most (the witness function of the maximum mean discrepancy)."""
    sides = [_embedded(side, name) for side in (reference, window)]
    if not all(len(side) for side in sides) or "request_id" not in window.columns:
        return []
    excess = witness(sides[1].vectors, sides[1].vectors, sides[0].vectors)
    most = np.argsort(-excess, kind="stable")[:MOVED]
    return [
        Moved(str(sides[1].columns["request_id"][row]), float(excess[row]), _nearest(sides[1].vectors[row], concepts))
        for row in most
    ]


def _embedded(side: Window, name: str) -> Window:
    rows = np.asarray(np.isfinite(side.vectors).all(axis=1))
    if name != WHOLE:
        column, value = name.split(" ", 1)
        rows &= side.columns[column] == value
    return side.where(rows)


def _nearest(vector: Vectors, concepts: Concepts | None) -> list[str]:
    if concepts is None:
        return []
    names, vectors = concepts
    return [names[row] for row in np.argsort(-(vectors @ vector), kind="stable")[:NEAREST]]
