"""The results of a search as one HTML file that needs no network: images inside, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from components.corpus.item import Item
from serving.search import Hit

THUMBNAIL_PIXELS = 256

STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --ink: #1b1f24; --soft: #667080; --line: #e3e6eb;
  --bar: #4f6df5; }
@media (prefers-color-scheme: dark) { :root { --back: #101318; --card: #191e26; --ink: #e8ebf0; --soft: #98a2b3;
  --line: #2a313c; --bar: #8098ff; } }
* { box-sizing: border-box; margin: 0; }
body { background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; padding: 40px 24px 64px; }
main { max-width: 1080px; margin: auto; }
header { display: flex; align-items: center; gap: 20px; margin-bottom: 32px; }
header img { width: 88px; height: 88px; object-fit: contain; border-radius: 14px; border: 1px solid var(--line);
  background: var(--card); padding: 6px; }
h1 { font-size: 28px; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
.facts { color: var(--soft); margin-top: 4px; }
ol { list-style: none; padding: 0; display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px; display: flex;
  flex-direction: column; gap: 10px; }
figure { height: 128px; display: grid; place-items: center; color: var(--soft); }
figure img { max-width: 100%; height: 128px; object-fit: contain; }
.text { overflow-wrap: anywhere; flex: 1; }
.rank { color: var(--soft); font-variant-numeric: tabular-nums; margin-right: 6px; }
.score { display: flex; align-items: center; gap: 10px; color: var(--soft); font-size: 13px;
  font-variant-numeric: tabular-nums; }
.track { flex: 1; height: 6px; border-radius: 3px; background: var(--line); overflow: hidden; }
.track i { display: block; height: 100%; border-radius: 3px; background: var(--bar); }
"""


def results_page(query: Item, hits: Sequence[Hit], model: str, latency_ms: float, searched: int) -> str:
    """Returns the page: the query, the model version that answered, the time it took, and the hits with their scores.

    A hit whose image cannot be read is shown without it. Bars run from cosine 0 to 1.
    """
    title = escape(query.text or "Images like this one")
    image = thumbnail(query.image) if query.image else ""
    hint = f" · {escape(query.instruction)}" if query.instruction else ""
    facts = f"{len(hits)} of {searched:,} images · model {escape(model)} · {latency_ms:.1f} ms{hint}"
    cards = "\n".join(card(rank, hit) for rank, hit in enumerate(hits, start=1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} · Embedline</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>{image}<div><h1>{title}</h1><p class="facts">{facts}</p></div></header>
<ol>
{cards}
</ol>
</main>
</body>
</html>
"""


def card(rank: int, hit: Hit) -> str:
    filled = 100 * min(max(hit.score, 0.0), 1.0)
    return (
        f"<li><figure>{thumbnail(Path(hit.image_path))}</figure>"
        f'<p class="text"><span class="rank">{rank}</span>{escape(hit.text)}</p>'
        f'<p class="score"><span class="track"><i style="width:{filled:.1f}%"></i></span>{hit.score:.3f}</p></li>'
    )


def thumbnail(source: Path | bytes | Image.Image) -> str:
    """Returns an image element that holds the image itself, or a remark if the image cannot be read."""
    try:
        image = (
            source
            if isinstance(source, Image.Image)
            else Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        )
        small = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "<span>no image</span>"
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90)
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
