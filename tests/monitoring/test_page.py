"""The page of all looks: what the history holds is on it, it loads and runs nothing, and what users wrote is text."""

import io
import re
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.errors import DataInvalid
from components.monitoring.config import Monitoring
from components.traffic import Feedback, Request, TrafficWriter, Window, feedback_table, read_requests
from monitoring import golden
from monitoring.golden import GoldenReport
from monitoring.page import SHOWN, history_page
from monitoring.policies import DAY
from monitoring.projection import POINTS, SIZE, project
from monitoring.reference import Known
from monitoring.report import WindowReport, judge_window, read_history
from monitoring.watch import PAGE, look

Draw = Callable[..., Window]
SETTINGS = Monitoring(
    windows_a_day=4, false_alarms_per_month=12, permutations=199, min_requests=50, slices=["modality"]
)
START = (time.time() // DAY - 3) * DAY
HOSTILE = '<script>alert("x")</script><img src="https://example.org/x.png">'
LOADS = ("src", "href", "xlink:href", "action", "poster", "srcset", "data")


class Read(HTMLParser):
    """The elements of a page, what they would load, and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def loaded(self) -> list[str]:
        return [str(value) for _, each in self.elements for name, value in each.items() if name in LOADS]

    def of(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [each for name, each in self.elements if name == tag and kind in (each.get("class") or "").split()]


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(file, "PNG")
    return file.getvalue()


def send(home: Path, window: Window, number: int, version: str, rank: int) -> None:
    """Records a window with its raw inputs in the `number`-th quarter of a day, and that users took the hit `rank`."""
    with (
        TrafficWriter(home / "traffic", raw=True) as writer,
        TrafficWriter(home / "feedback", table=feedback_table) as feedback,
    ):
        for row, vector in enumerate(window.vectors):
            when = START + (number + (row + 0.5) / len(window)) * DAY / 4
            modality = str(window.columns["modality"][row])
            text, image = (HOSTILE, None) if modality == "text" else (None, png((200, 0, row % 250)))
            writer.record(Request(when, f"{number}-{row}", vector, modality, version, raw_text=text, raw_image=image))
            feedback.record(Feedback(when, f"{number}-{row}", rank if modality == "text" else 1))


def looked(home: Path, reference: Window) -> tuple[list[WindowReport], str]:
    history = home / "monitoring" / "history.jsonl"
    for _ in look(home / "traffic", lambda _: Known(reference), SETTINGS, history, read_history(history)):
        pass
    return read_history(history), history.with_name(PAGE).read_text(encoding="utf-8")


def test_the_page_shows_a_real_history_whole_escaped_and_without_network(tmp_path: Path, draw: Draw) -> None:
    home, reference = tmp_path, draw(500, 0)
    for number in range(3):
        send(home, draw(200, 1 + number), number, "1", 1)
    _, calm = looked(home, reference)
    assert Read(calm).of("rect", "alarm") == []
    for number in (3, 4):
        send(home, draw(200, 9 + number, shift=2.0, share=0.5), number, "2<b>", 4)
    golden.append(home / "monitoring" / golden.HISTORY,
                  GoldenReport(START + DAY, "1", 48, 0.7, 0.9, 0.5, 3.0, f"wrong: {HOSTILE}"))  # fmt: skip
    reports, text = looked(home, reference)
    page = Read(text)
    assert [report.verdict for report in reports] == ["ok"] * 3 + ["alarm"] * 2

    assert "script" not in {tag for tag, _ in page.elements}
    assert HOSTILE in page.words, "the text of a request stands there as it was asked"
    assert all(link.startswith("data:") for link in page.loaded) and len(page.loaded) > 1
    assert not re.search(r"url\(|@import", text)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text

    assert page.of("rect", "alarm"), "alarms are marked"
    assert len(page.of("line", "version")) >= 3 and "v2<b>" in page.words and "version 2<b>" in page.words
    tests = {finding.test.replace("_", " ") for report in reports for finding in report.findings}
    assert all(test in page.words for test in tests)
    assert all(name in page.words for name in ("recall@1", "recall@10", "mean reciprocal rank", "hit@1"))
    moved = reports[-1].moved
    assert moved and len(page.of("circle", "moved")) == len(moved)
    assert all(one.request_id in page.words for one in moved)
    rows = read_requests(home / "traffic", ["raw_image"], START, START + 2 * DAY, [one.request_id for one in moved])
    kept = {row["request_id"]: row["raw_image"] for row in rows}
    assert sum(tag == "img" for tag, _ in page.elements) == sum(image is not None for image in kept.values())


def test_outcomes_are_those_of_the_window_by_version_and_slice(tmp_path: Path, draw: Draw) -> None:
    send(tmp_path, draw(200, 1), 0, "1", 1)
    send(tmp_path, draw(200, 2), 1, "2", 4)
    last = looked(tmp_path, draw(500, 0))[0][-1]
    found = {(one.group, one.measure): one for one in last.outcomes}
    assert found["modality text", "recall@1"].mean == 0
    assert found["modality text", "recall@10"].mean == 1
    assert found["modality text", "mean reciprocal rank"].mean == pytest.approx(0.25)
    assert found["modality image", "recall@1"].mean == 1
    both = found["all", "recall@1"]
    assert both.answers == 200 == found["version 2", "recall@1"].answers
    assert 0 < both.low < both.mean == found["modality image", "recall@1"].answers / 200 < both.high < 1


def test_what_is_no_report_of_golden_queries_is_named_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    assert golden.read_history(path) == []
    report = GoldenReport(1.0, "1", 48, 0.7, 0.9, 0.5, 3.0, None)
    golden.append(path, report)
    with path.open("a") as file:
        file.write('{"time": 2')
    assert golden.read_history(path) == [report]
    golden.append(path, report)
    assert golden.read_history(path) == [report, report], "what was cut off does not spoil the next line"
    path.write_text("{}\n")
    with pytest.raises(DataInvalid, match="line 1: is no report"):
        golden.read_history(path)


def test_a_history_without_windows_and_a_long_one_have_a_page(draw: Draw) -> None:
    assert "No window has been judged yet" in history_page([], [], {}, 0.05)
    report = judge_window(draw(200, 0), draw(200, 1), SETTINGS, since=0.0, until=1.0)
    many = [replace(report, since=float(number), until=number + 1.0) for number in range(SHOWN + 100)]
    page = history_page(many, [], {}, 0.05)
    assert history_page(many[::-1], [], {}, 0.05) == page, "a history may be filled in later"
    assert f"{SHOWN} windows shown" in page
    assert len(page) < 2_000_000


def test_the_projection_is_that_of_principal_components_and_bounded(draw: Draw) -> None:
    reference, window = draw(700, 0), draw(600, 1, shift=2.0, share=0.2)
    window.vectors[0] = np.nan
    moved = [str(name) for name in window.columns["request_id"][[5, 9]]]
    found = project(reference, window, moved, 0)
    assert found and [len(found.reference), len(found.window), len(found.moved)] == [POINTS, POINTS, 2]
    both = np.concatenate([reference.vectors, window.vectors[1:]])
    _, singular, axes = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    assert found.explained == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-4)
    expected = (window.vectors[[5, 9]] - both.mean(axis=0)) @ axes[:2].T
    ours = np.array(found.moved)
    np.testing.assert_allclose(np.abs(ours / np.abs(ours).max()), np.abs(expected / np.abs(expected).max()), atol=0.01)
    assert np.abs(np.concatenate([found.reference, found.window, found.moved])).max() == SIZE
    assert project(reference, window.where(np.array([0])), [], 0) is None
    thin = draw(60, 2, dimension=16)
    single = project(replace(thin, vectors=thin.vectors[:, :1]), replace(thin, vectors=thin.vectors[:, :1]), [], 0)
    assert single and {y for _, y in single.window} == {0}
