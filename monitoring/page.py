"""The history of all looks as one HTML file that needs no network: drift, alarms, quality, golden queries, a map."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from components.evaluation.reports.drawing import document, image_element, short
from components.files import write_text
from components.traffic import read_requests
from monitoring import charts
from monitoring.charts import Band, Frame, Line, Point, chart, cloud, day, legend, strip
from monitoring.golden import GoldenReport
from monitoring.report import ALARM, NOTE, OK, TOO_FEW, WHOLE, Moved, WindowReport

SHOWN = 400
"""How many windows, the last ones, a page shows."""
FINDINGS = 12
LEAST_EVIDENCE = 0.01
STYLE = (
    charts.STYLE
    + """
.state { font-weight: 650 } .state.alarm { color: var(--alarm) } .state.note { color: var(--note) }
.state.ok { color: var(--ok) }
.map { display: grid; gap: 1.5rem 2.5rem; grid-template-columns: minmax(0, 30rem) minmax(0, 1fr); align-items: start }
.items { display: grid; gap: 1.1rem 1.5rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)) }
.items figure { border-top: 1px solid var(--line); padding-top: .5rem; min-width: 0 }
.items figcaption { overflow-wrap: anywhere } .items b { color: var(--alarm); margin-right: .4em }
.items figure img { max-height: 84px }
i.reference { background: var(--other) } i.window { background: var(--accent) } i.alarm { background: var(--alarm) }
i.note { background: var(--note) } i.ok { background: var(--ok) } i.few { background: var(--other) }
@media (max-width: 46rem) { .map { grid-template-columns: 1fr } }
"""
)


@dataclass(frozen=True)
class Raw:
    """What a request asked, where that was kept."""

    text: str | None
    image: bytes | None


def write_history(
    path: Path, traffic: Path, reports: Sequence[WindowReport], golden: Sequence[GoldenReport], level: float
) -> None:
    """Writes the page of a history; what the requests that moved most asked is read from `traffic`, where it was kept.

    Raises `UsageError` where nothing can be written, and as `read_window` does.
    """
    raw: dict[str, Raw] = {}
    for report in _last(reports):
        ids = [one.request_id for one in report.moved]
        rows = read_requests(traffic, ["raw_text", "raw_image"], report.since, report.until, ids) if ids else ()
        raw |= {row["request_id"]: Raw(row.get("raw_text"), row.get("raw_image")) for row in rows}
    write_text(path, history_page(reports, golden, raw, level))


def history_page(
    reports: Sequence[WindowReport], golden: Sequence[GoldenReport], raw: Mapping[str, Raw], level: float
) -> str:
    """Returns the page of the last `SHOWN` windows of a history, in whatever order it is; `raw` are requests by their
    ids. A shift is certain whose adjusted p-value is at most `level`."""
    reports = sorted(reports, key=lambda report: report.until)[-SHOWN:]
    if not reports:
        return document("Watching production", '<p class="facts">No window has been judged yet.</p>', STYLE)
    since, until = reports[0].since, max(report.until for report in reports)
    golden = [report for report in golden if report.time >= since]
    until = max([until, *(report.time for report in golden)])
    versions: dict[str, float] = {}
    for report in reports:
        versions.setdefault(report.version, report.since)
    named = {name: time for name, time in versions.items() if name and time > since}
    marked = [Band(one.since, one.until, one.verdict) for one in reports if one.verdict in (ALARM, NOTE)]
    frame = Frame(since, until, list(dict.fromkeys(marked)), named)
    main = "\n".join([
        _facts(reports), _windows(reports, frame), _drift(reports, frame, level), _outcomes(reports, frame),
        _golden(golden, frame), *(_map(report, raw) for report in _last(reports)), _findings(_last(reports)),
    ])  # fmt: skip
    return document("Watching production", main, STYLE)


def _last(reports: Sequence[WindowReport]) -> list[WindowReport]:
    """Returns the reports of the last window, one a version."""
    end = max((report.until for report in reports), default=0.0)
    return [report for report in reports if report.until == end]


def _facts(reports: Sequence[WindowReport]) -> str:
    verdicts = [report.verdict for report in reports]
    now = "".join(
        f'<span>{escape(_version(report.version))}: <b class="state {report.verdict}">{report.verdict}</b></span>'
        for report in _last(reports)
    )
    return (
        f'<p class="facts">{now}<span>last window until {day(reports[-1].until)} UTC</span>'
        f"<span>{len(reports):,} windows shown</span><span>{verdicts.count(ALARM):,} with an alarm</span>"
        f"<span>{verdicts.count(NOTE):,} with a note</span></p>"
    )


def _windows(reports: Sequence[WindowReport], frame: Frame) -> str:
    by_version: dict[str, list[WindowReport]] = defaultdict(list)
    for report in reports:
        by_version[report.version].append(report)
    strips = "".join(
        strip(_version(name), [Band(one.since, one.until, one.verdict) for one in found], frame)
        for name, found in by_version.items()
    )
    evidence = [
        Line(_version(name), number, [Point(one.until, _decades(one.evidence), one.raised) for one in found])
        for number, (name, found) in enumerate(by_version.items())
    ]
    colours = {line.name: line.colour for line in evidence} if len(evidence) > 1 else {}
    limit, kinds = _decades(reports[-1].limit), (OK, NOTE, ALARM, TOO_FEW)
    lines = chart("evidence of a shift", "the dashed limit raises an alarm, a dot says where", evidence, frame, limit,
                  lambda decades: f"{10**decades:.3g}")  # fmt: skip
    named = "".join(f'<li><i class="dot {kind}"></i>{kind}</li>' for kind in kinds)
    note = "A note is a shift that provably cost no quality. Vertical lines are new versions; times are UTC."
    return _section("Windows", note, named + legend(colours), strips + lines)


def _drift(reports: Sequence[WindowReport], frame: Frame, level: float) -> str:
    found: dict[str, dict[tuple[str, str], list[Point]]] = defaultdict(lambda: defaultdict(list))
    units: dict[str, str] = {}
    for report in reports:
        for one in report.findings:
            certain = one.adjusted <= level
            found[one.test][one.slice, report.version].append(Point(report.until, one.effect, certain))
            units[one.test] = one.unit
    if not found:
        return ""
    names = sorted({name for lines in found.values() for name, _ in lines}, key=lambda name: (name != WHOLE, name))
    colours = {name: number for number, name in enumerate(names)}
    drawn = "".join(
        chart(test.replace("_", " "), units[test],
              [Line(name, colours[name], points) for (name, _), points in sorted(lines.items(), reverse=True)], frame)
        for test, lines in sorted(found.items())
    )  # fmt: skip
    note = (
        "By drift test and slice, against the reference. A dot is a shift that is certain after all tests and slices "
        "of its window are adjusted for; behind the lines lie windows with an alarm or a note."
    )
    bands = "".join(f'<li><i class="band {kind}"></i>{kind}</li>' for kind in (ALARM, NOTE))
    return _section("Size of each shift", note, legend(colours) + bands, _charts(drawn))


def _outcomes(reports: Sequence[WindowReport], frame: Frame) -> str:
    found: dict[str, dict[str, dict[float, Point]]] = defaultdict(lambda: defaultdict(dict))
    for report in reports:
        for one in report.outcomes:
            interval = (one.low, one.high) if one.group == WHOLE else (None, None)
            found[one.measure][one.group][report.until] = Point(report.until, one.mean, False, *interval)
    if not found:
        return ""
    groups = list(dict.fromkeys(group for by_group in found.values() for group in by_group))
    colours = {name: number for number, name in enumerate(groups)}
    drawn = "".join(
        chart(measure, "", [Line(group, colours[group], list(points.values())) for group, points in by_group.items()],
              frame)
        for measure, by_group in found.items()
    )  # fmt: skip
    note = "From feedback, with the 95 % interval of all. The hit that a user took is the relevant one."
    return _section("What users took", note, legend(colours), _charts(drawn))


def _golden(golden: Sequence[GoldenReport], frame: Frame) -> str:
    if not golden:
        return ""
    wrong = [report.problem is not None for report in golden]

    def line(name: str, colour: int, values: Iterable[float], marks: bool = True) -> Line:
        rows = zip(golden, values, wrong, strict=True)
        return Line(name, colour, [Point(each.time, value, marks and bad) for each, value, bad in rows])

    drawn = [
        chart("hit@1", "", [line("known", 1, (each.known_hit_at_1 for each in golden), False),
                            line("answered", 0, (each.hit_at_1 for each in golden))], frame),
        chart("least cosine to the stored vectors", "", [line("answered", 0, (each.least_cosine for each in golden))],
              frame),
        chart("time of a query", "ms, median", [line("answered", 0, (each.median_ms for each in golden))], frame),
    ]  # fmt: skip
    problems = [one.problem for one in golden if one.problem]
    last = f" The last problem: {problems[-1]}." if problems else ""
    note = f"Questions with known answers, asked of the served model; a dot is a wrong answer.{last}"
    return _section("Golden queries", note, legend({"answered": 0, "known": 1}), _charts("".join(drawn)))


def _map(report: WindowReport, raw: Mapping[str, Raw]) -> str:
    if report.projection is None:
        return ""
    items = "".join(_item(number, one, raw.get(one.request_id)) for number, one in enumerate(report.moved, 1))
    name = f"Reference and current window, {_version(report.version)}"
    beside = f'<div class="items">{items}</div>' if items else '<p class="soft">No request stands out.</p>'
    note = (
        f"Both on their two principal axes, which hold {report.projection.explained:.0%} of the variance. Numbered: "
        "the requests that lie where the window is denser than the reference."
    )
    entries = "".join(f'<li><i class="dot {side}"></i>{side}</li>' for side in ("reference", "window"))
    return _section(name, note, entries, f'<div class="map">{cloud(report.projection, name)}{beside}</div>')


def _item(number: int, moved: Moved, raw: Raw | None) -> str:
    image = f"<div>{image_element(raw.image)}</div>" if raw and raw.image else ""
    text = f'<p dir="auto">{escape(short(raw.text))}</p>' if raw and raw.text else ""
    near = f'<p class="soft">near {escape(", ".join(moved.concepts))}</p>' if moved.concepts else ""
    return f"<figure><figcaption><b>{number}</b>{escape(moved.request_id)}</figcaption>{image}{text}{near}</figure>"


def _findings(reports: Sequence[WindowReport]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(one.slice)}</th><td>{escape(one.test.replace("_", " "))}</td>'
        f'<td class="number">{one.effect:.3g}</td><td>{escape(one.unit)}</td><td class="number">{one.adjusted:.3g}</td>'
        f"<td>{escape(report.version)}</td></tr>"
        for report in reports
        for one in report.findings[:FINDINGS]
    )
    if not rows:
        return ""
    heads = '<th>slice</th><th>test</th><th class="number">size</th><th></th><th class="number">p</th><th>version</th>'
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    note = "p is adjusted for all tests and slices."
    return _section("The last window, the most certain first", note, "", f'<div class="scroll">{table}</div>')


def _section(title: str, note: str, entries: str, content: str) -> str:
    """Returns a section; `entries` of the legend and `content` are HTML."""
    return (
        f'<section><h2>{escape(title)}</h2><p class="note">{escape(note)}</p><ul class="legend">{entries}</ul>'
        f"{content}</section>"
    )


def _charts(drawn: str) -> str:
    return f'<div class="charts">{drawn}</div>'


def _decades(evidence: float) -> float:
    return math.log10(max(evidence, LEAST_EVIDENCE))


def _version(name: str) -> str:
    return f"version {name}" if name else "all versions"
