"""Lines over time and clouds of points as SVG, in the style of `components/evaluation/reports/drawing.py`.

Places are percentages, so that a chart is as wide as there is room and its words keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from monitoring.projection import SIZE, Points, Projection

COLOURS = 7
TOP, BOTTOM = 14.0, 92.0
"""Between which percentages of a chart's height its values lie."""
LATE = 80.0
"""Beyond this percentage of the time, words stand on the left of what they name."""
MOVED_RADIUS, POINT_RADIUS = 22, 9

STYLE = """
:root { --alarm: #d4351c; --note: #c98a00; --ok: #2f9e63; --c0: #14171c; --c1: #2456c7; --c2: #c4570e; --c3: #11845b;
  --c4: #9b3fb5; --c5: #0d8aa6; --c6: #b3276b }
@media (prefers-color-scheme: dark) { :root { --alarm: #ff6b52; --note: #f0b429; --ok: #4cc38a; --c0: #e6e9ed;
  --c1: #7ea4ff; --c2: #ff9d5c; --c3: #45c995; --c4: #d48bea; --c5: #4fc4e0; --c6: #f27bb0 } }
.charts { display: grid; gap: 1.6rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)) }
.chart figcaption { font-size: 13px; color: var(--ink); font-weight: 600; margin: 0 } .chart { min-width: 0 }
.chart figcaption span { color: var(--soft); font-weight: 400; margin-left: .4em }
.chart svg { height: 120px; border-bottom: 1px solid var(--line); overflow: visible } .chart svg svg { border: 0 }
.chart.strip svg { height: 22px; border: 0; margin-top: 4px }
.axis { display: flex; justify-content: space-between; font-size: 11px; color: var(--soft) }
svg text { fill: var(--soft); font-size: 11px; paint-order: stroke; stroke: var(--back); stroke-width: 3px }
polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; stroke-linejoin: round }
.spread { stroke-width: 1; opacity: .35 } .limit { stroke: var(--ink); stroke-dasharray: 3 3 }
.version { stroke: var(--soft); stroke-dasharray: 2 3 }
rect.alarm { fill: var(--alarm) } rect.note { fill: var(--note) } rect.ok { fill: var(--ok) }
rect.too.few { fill: var(--other) } rect.band { opacity: .16 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: 13px; margin: 0 0 1rem; list-style: none;
  padding: 0 }
.legend i { display: inline-block; width: 14px; height: 3px; vertical-align: middle; margin: 0 .45em 0 0 }
.legend:empty { display: none }
.legend i.dot { width: 8px; height: 8px; border-radius: 50% } .legend i.band { height: 10px; opacity: .45 }
circle { stroke: var(--back); stroke-width: 1 }
.cloud { height: auto; aspect-ratio: 1; border: 1px solid var(--line); border-radius: 3px }
.cloud circle { stroke: none; fill: var(--other); opacity: .75 } .cloud .window { fill: var(--accent) }
.cloud .moved { fill: none; stroke: var(--alarm); stroke-width: 7; opacity: 1 }
.cloud text { fill: var(--ink); font-size: 46px; stroke-width: 12px; font-weight: 600 }
""" + "".join(
    f".c{number} {{ stroke: var(--c{number}) }} circle.c{number}, i.c{number} {{ fill: var(--c{number}); "
    f"background: var(--c{number}) }}\n"
    for number in range(COLOURS)
)


@dataclass(frozen=True)
class Point:
    """A value at a time, with its interval where there is one; a `marked` one gets a dot."""

    time: float
    value: float
    marked: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Points that belong together; `colour` is that of its name's place in the legend."""

    name: str
    colour: int
    points: Sequence[Point]


@dataclass(frozen=True)
class Band:
    """A stretch of time of a kind, such as `alarm`."""

    since: float
    until: float
    kind: str


@dataclass(frozen=True)
class Frame:
    """What all charts of a page share: the time that they show, its bands, and when another version came."""

    since: float
    until: float
    bands: Sequence[Band]
    versions: Mapping[str, float]

    def x(self, time: float) -> float:
        """Returns where a time lies, in percent."""
        return 100 * (time - self.since) / ((self.until - self.since) or 1.0)


def chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    frame: Frame,
    limit: float | None = None,
    say: Callable[[float], str] = "{:.3g}".format,
) -> str:
    """Returns lines over time. The axis holds 0 unless all values are above it and close together."""
    values = [each for line in lines for point in line.points for each in (point.value, point.low, point.high)]
    known = [value for value in [*values, limit] if value is not None]
    low, high = min(known), max(known)
    low = min(low, 0.0) if low < 0.5 * high else low
    scale = (high - low) or abs(high) or 1.0

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / scale

    parts = [_band(band, frame, "band ") for band in frame.bands]
    parts += [_version(name, time, frame) for name, time in frame.versions.items()]
    if limit is not None:
        parts.append(f'<line class="limit" x1="0" x2="100%" y1="{y(limit):.1f}%" y2="{y(limit):.1f}%"/>')
    parts += [_line(line, frame, y) for line in lines] + [_dots(line, frame, y, say) for line in lines]
    parts.append(
        f'<text x="0" y="10">{escape(say(high))}</text><text x="0" y="{BOTTOM:.0f}%">{escape(say(low))}</text>'
    )
    return _figure(title, unit, "".join(parts), frame)


def strip(title: str, bands: Sequence[Band], frame: Frame) -> str:
    """Returns a row of coloured stretches of time, each named when it is pointed at."""
    return _figure(title, "", "".join(_band(band, frame) for band in bands), frame, "strip")


def cloud(projection: Projection, label: str) -> str:
    """Returns the map of two samples; what moved most is ringed and numbered from 1."""
    edge = SIZE + 60
    moved = "".join(
        f'<circle class="moved" cx="{x}" cy="{-y}" r="{MOVED_RADIUS}"/><text x="{x + 28}" y="{-y + 14}">{number}</text>'
        for number, (x, y) in enumerate(projection.moved, 1)
    )
    return (
        f'<svg class="cloud" viewBox="{-edge} {-edge} {2 * edge} {2 * edge}" role="img" aria-label="{escape(label)}">'
        f"{_circles(projection.reference, 'reference')}{_circles(projection.window, 'window')}{moved}</svg>"
    )


def legend(colours: Mapping[str, int]) -> str:
    return "".join(f'<li><i class="{_class(number)}"></i>{escape(name)}</li>' for name, number in colours.items())


def day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def _figure(title: str, unit: str, parts: str, frame: Frame, kind: str = "") -> str:
    axis = f'<p class="axis"><span>{day(frame.since)}</span><span>{day(frame.until)}</span></p>'
    return (
        f'<figure class="chart {kind}"><figcaption>{escape(title)}<span>{escape(unit)}</span></figcaption>'
        f'<svg role="img" aria-label="{escape(title)} over time">{parts}</svg>{"" if kind else axis}</figure>\n'
    )


def _band(band: Band, frame: Frame, kind: str = "") -> str:
    left, right = frame.x(band.since), frame.x(band.until)
    return (
        f'<rect class="{kind}{escape(band.kind)}" x="{left:.2f}%" width="{right - left:.2f}%" height="100%">'
        f"<title>{escape(band.kind)}, {day(band.since)} to {day(band.until)}</title></rect>"
    )


def _version(name: str, time: float, frame: Frame) -> str:
    x = f"{frame.x(time):.2f}%"
    anchor, aside = ("end", -4) if frame.x(time) > LATE else ("start", 4)
    return (
        f'<line class="version" x1="{x}" x2="{x}" y1="0" y2="100%"><title>version {escape(name)}</title></line>'
        f'<text x="{x}" y="10" dx="{aside}" text-anchor="{anchor}">v{escape(name)}</text>'
    )


def _line(line: Line, frame: Frame, y: Callable[[float], float]) -> str:
    points = " ".join(f"{frame.x(point.time):.2f},{y(point.value):.2f}" for point in line.points)
    return (
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
        f'<polyline class="{_class(line.colour)}" points="{points}"/></svg>'
    )


def _dots(line: Line, frame: Frame, y: Callable[[float], float], say: Callable[[float], str]) -> str:
    found, kind = [], _class(line.colour)
    for point in line.points:
        x = f"{frame.x(point.time):.2f}%"
        if point.low is not None and point.high is not None:
            found.append(
                f'<line class="spread {kind}" x1="{x}" x2="{x}" y1="{y(point.low):.1f}%" y2="{y(point.high):.1f}%"/>'
            )
        if point.marked or len(line.points) == 1:
            title = f"<title>{escape(line.name)}, {day(point.time)}: {escape(say(point.value))}</title>"
            found.append(f'<circle class="{kind}" cx="{x}" cy="{y(point.value):.1f}%" r="3.5">{title}</circle>')
    return "".join(found)


def _circles(points: Points, kind: str) -> str:
    return "".join(f'<circle class="{kind}" cx="{x}" cy="{-y}" r="{POINT_RADIUS}"/>' for x, y in points)


def _class(colour: int) -> str:
    return f"c{min(colour, COLOURS - 1)}"
