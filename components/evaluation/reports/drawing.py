"""What pages are drawn with: their frame and style, shares as numbers and as SVG bars, images as data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from components.corpus.item import ImageSource

IMAGE_PIXELS = 240
LONGEST_TEXT = 240

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #14171c; --soft: #5d6673; --line: #e2e5ea; --track: #eef0f3;
  --other: #aab3c0; --accent: #2456c7; --accent-ink: #1d48aa }
@media (prefers-color-scheme: dark) { :root { --back: #101317; --ink: #e6e9ed; --soft: #98a2af; --line: #282e37;
  --track: #1d2229; --other: #566070; --accent: #5f8dff; --accent-ink: #8fb0ff } }
* { box-sizing: border-box; margin: 0 }
html { -webkit-text-size-adjust: 100% }
body { background: var(--back); color: var(--ink); padding: 3.5rem 1.5rem 5rem; font: 15px/1.5 -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums }
main { max-width: 66rem; margin: auto }
h1 { font-size: 2rem; font-weight: 650; letter-spacing: -.022em; line-height: 1.15; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; font-weight: 650; letter-spacing: -.01em; margin-top: 3.5rem }
h3 { font-size: 1rem; font-weight: 600; overflow-wrap: anywhere }
code { font: .87em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere }
.soft, .facts, .note, figcaption, th, dt { color: var(--soft) }
.facts { margin-top: .6rem; display: flex; flex-wrap: wrap; gap: .1rem 1.4rem }
.note { font-size: 13px; margin: .25rem 0 1rem; max-width: 46rem }
.flag { display: inline-block; border: 1px solid var(--soft); border-radius: 3px; padding: 0 .4em; margin: 2px .4em 0 0;
  color: var(--ink); font-size: 12px; font-weight: 400; line-height: 1.4 }
.models { margin-top: 2rem; border-top: 1px solid var(--line) }
.model { display: grid; grid-template-columns: minmax(0, 1fr) 15rem 5rem 5rem 5rem; gap: .4rem 1.5rem;
  padding: 1.2rem 0; align-items: end; border-bottom: 1px solid var(--line) }
.model p { font-size: 13px }
.figure b { display: block; font-size: 1.5rem; font-weight: 600; letter-spacing: -.02em; line-height: 1.2 }
.figure.overall b { font-size: 2.6rem; line-height: 1; letter-spacing: -.035em }
.figure.overall b span { font-size: 1rem; font-weight: 400; letter-spacing: 0; color: var(--soft); margin-left: .5rem }
.first .overall b, .name.first, td.first { color: var(--accent-ink) }
.model .none { grid-column: 2 / -1; font-size: 15px; font-weight: 600; overflow-wrap: anywhere; align-self: center }
.bars { display: grid; grid-template-columns: minmax(6rem, 13rem) minmax(0, 1fr) 3rem minmax(0, 11rem);
  gap: .45rem 1rem; align-items: center }
.bars h3, .bars .group { grid-column: 1 / -1; margin-top: .9rem } .bars .group { font-weight: 600; font-size: 14px }
.bars h3:first-child { margin-top: 0 } .bars h3 { font-size: 13px; font-weight: 400; color: var(--soft) }
.name { overflow-wrap: anywhere; line-height: 1.3 } .bars .number { font-weight: 600 }
.beside { color: var(--soft); font-size: 13px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
svg { display: block; width: 100%; height: 12px } svg.ticked { height: 19px; margin-top: 6px }
.track { fill: var(--track) } .share { fill: var(--other) } svg.first .share { fill: var(--accent) }
.interval { stroke: var(--ink); stroke-width: 1.5 } .tick { stroke: var(--soft); stroke-width: 1.25 }
.chance { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 2 }
.scroll { overflow-x: auto; margin-right: -1.5rem; padding-right: 1.5rem }
table { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.35 }
th { font-weight: 400; font-size: 13px; text-align: left; vertical-align: bottom }
th, td { padding: .34rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child { padding-left: 0; position: sticky; left: 0; background: var(--back); min-width: 8rem; max-width: 17rem;
  white-space: normal; overflow-wrap: break-word }
tbody th { color: var(--ink); font-size: 14px; vertical-align: middle }
tr.group th { font-weight: 600; padding-top: 1.3rem; max-width: none } tr.group span { color: var(--soft);
  font-weight: 400 }
.number { text-align: right } .best { font-weight: 650 }
.range { color: var(--soft); font-size: 13px; text-align: right; padding-left: 0 }
.plot { width: 38%; min-width: 7rem } .plot svg { height: 8px; margin: 2px 0 }
.even th.number { white-space: normal; min-width: 5.3rem; overflow-wrap: break-word }
.misses { display: grid; gap: 2rem 2.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 29rem), 1fr)) }
.miss { border-top: 1px solid var(--line); padding-top: .7rem }
.miss > p { display: flex; justify-content: space-between; gap: 1rem; font-size: 13px; color: var(--soft) }
.miss > p b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere } .miss > p span { white-space: nowrap }
.miss > div { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1rem; margin-top: .6rem }
figcaption { font-size: 12px; margin-bottom: .3rem }
figure p { font-size: 13.5px; line-height: 1.4; overflow-wrap: anywhere }
figure p.soft { font-size: 12px; margin-bottom: .2rem }
figure div { display: flex; gap: 3px; align-items: start; margin-bottom: .35rem }
figure div:empty { display: none }
figure img { min-width: 0; max-width: 100%; max-height: 130px; object-fit: contain; border-radius: 3px }
dl { display: grid; grid-template-columns: minmax(6rem, 13rem) minmax(0, 1fr); gap: .35rem 1rem; font-size: 13px;
  margin-top: .8rem }
dt, dd { overflow-wrap: anywhere }
@media (max-width: 46rem) {
  body { padding: 2rem 1.1rem 3rem } h1 { font-size: 1.6rem } .scroll { margin-right: -1.1rem; padding-right: 1.1rem }
  .model { grid-template-columns: repeat(3, 1fr) } .model > :first-child, .overall, .model .none { grid-column: 1 / -1 }
  .bars { grid-template-columns: minmax(0, 1fr) 3rem; gap: .15rem .8rem } .bars .name, .beside { grid-column: 1 / -1 }
  .bars .name { margin-top: .5rem } .beside:empty { display: none }
  th, td { padding-left: .45rem; padding-right: .45rem } dl { grid-template-columns: 1fr; gap: 0 }
  dd { margin-bottom: .6rem } }
@media print { .scroll { overflow: visible } .miss, .model, tr { break-inside: avoid } }
"""


def document(title: str, main: str, style: str = "") -> str:
    """Returns a page that loads and runs nothing, `main` being its content as HTML; `style` is added to `STYLE`."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{main}
</main>
</body>
</html>
"""


def short(text: str) -> str:
    """Returns the text, cut where it is long."""
    text = text.strip()
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def bounds(interval: Iterable[float]) -> str:
    return "–".join(map(percent, interval))


def count(number: int) -> str:
    """Returns a large number in words short enough for a heading, such as 5.2 M."""
    for unit, size in {"B": 10**9, "M": 10**6}.items():
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def bar(
    label: str,
    share: float | None,
    first: bool,
    interval: tuple[float, float] | None = None,
    chance: float | None = None,
    others: Mapping[str, float] | None = None,
) -> str:
    """Returns the drawing of a share, 0 to 1, as long as it is: 1 fills the width.

    Its interval lies across its end, the chance level is a dashed mark on it, `others` are named ticks below it.
    """
    if share is None:
        return f'<svg role="img" aria-label="{escape(label)}: no mean"></svg>'
    marks = [_mark("tick", other, name, "14", "100%") for name, other in (others or {}).items()]
    if chance is not None:
        marks.append(_mark("chance", chance, "chance", "0", "100%"))
    height, middle = ("12", "6") if others else ("100%", "50%")
    if interval:
        low, high = (f"{100 * bound:.2f}%" for bound in interval)
        marks.append(f'<line class="interval" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>')
    kind = f"{'first ' if first else ''}{'ticked' if others else ''}"
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(label)}: {percent(share)} %">'
        f'<rect class="track" width="100%" height="{height}"/>'
        f'<rect class="share" width="{100 * share:.2f}%" height="{height}"/>{"".join(marks)}</svg>'
    )


def image_element(source: ImageSource) -> str:
    """Returns an image element that holds a small copy, or a remark if the image cannot be read."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        opened = Image.open(file) if isinstance(file, Path | io.BytesIO) else file
        small = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return '<p class="soft">no image</p>'
    small.thumbnail((IMAGE_PIXELS, IMAGE_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _mark(kind: str, share: float, name: str, top: str, bottom: str) -> str:
    place = f"{100 * share:.2f}%"
    return (
        f'<line class="{kind}" x1="{place}" x2="{place}" y1="{top}" y2="{bottom}">'
        f"<title>{escape(name)} {percent(share)} %</title></line>"
    )
