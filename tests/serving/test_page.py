"""The results page shows everything from inside one file, whatever the texts contain."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from components.corpus.item import Item
from serving.page import results_page
from serving.search import Hit


class Reader(HTMLParser):
    """Collects what a browser would show and load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.bars: list[str] = []
        self.shown = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.sources += [value for name in ("src", "href") if (value := values.get(name))]
        if tag == "i":
            self.bars.append(values.get("style") or "")

    def handle_data(self, data: str) -> None:
        self.shown += data


@pytest.fixture
def hits(tmp_path: Path, png: Callable[..., bytes]) -> list[Hit]:
    (tmp_path / "red.png").write_bytes(png("red", (600, 300)))
    (tmp_path / "broken.png").write_bytes(b"broken")
    return [
        Hit(0.8125, "red <b>& bold</b>", str(tmp_path / "red.png")),
        Hit(-0.25, "broken", str(tmp_path / "broken.png")),
        Hit(-0.5, "missing", str(tmp_path / "missing.png")),
    ]


def test_it_shows_query_model_scores_and_latency(hits: list[Hit]) -> None:
    reader = Reader(results_page(Item(text="a sad cat", instruction="find it"), hits, "embedder/3", 12.34, 3655))
    for fact in ("a sad cat", "find it", "embedder/3", "12.3 ms", "3 of 3,655", "0.812", "-0.250", "red <b>& bold</b>"):
        assert fact in reader.shown
    assert reader.bars == ["width:81.2%", "width:0.0%", "width:0.0%"]


def test_it_loads_nothing_and_runs_nothing(hits: list[Hit]) -> None:
    page = results_page(Item(text="<script>alert(1)</script>"), hits, "embedder/3", 1, 3)
    reader = Reader(page)
    assert "script" not in reader.tags
    assert reader.sources and all(source.startswith("data:image/webp;base64,") for source in reader.sources)
    assert "http://" not in page and "https://" not in page and "url(" not in page


def test_images_are_small_copies_and_a_broken_one_is_a_remark(hits: list[Hit], png: Callable[..., bytes]) -> None:
    reader = Reader(results_page(Item(image=png("blue")), hits, "embedder/3", 1, 3))
    query, red = (Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in reader.sources)
    assert query.size == (20, 12) and red.size == (256, 128)
    assert reader.shown.count("no image") == 2
