"""The page shows every number as it is, whatever the texts contain, from inside one file."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.corpus import Item
from components.errors import UsageError
from components.evaluation.metrics import REPORTED
from components.evaluation.reports.misses import Miss
from components.evaluation.reports.page import report_page, write_page
from components.scores import Model, Scores
from tests.scores.made_up import scores, task_score

TASKS = {
    "Groups": task_score("classification", "IND", 0.9),
    "Names": task_score("retrieval", "OOD", 0.35),
    "Own": task_score("vqa", "OOD", 0.456789),
}
PUBLISHED = {"CLIP": {"Groups": 0.6, "Names": 0.5, "Own": 0.1}, "E5-V": {"Names": 0.8}}
ATTACK = "<script>alert(1)</script>\"'><img src=https://example.com onerror=alert(1)>"


class Reader(HTMLParser):
    """Collects what a browser would show, load and run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.page = page
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.sources: list[str] = []
        self.bars: dict[str, float] = {}
        self.marks: dict[str, dict[str, list[float]]] = {}
        self.shown = ""
        self.bar = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.handlers += [name for name in values if name.startswith("on")]
        self.sources += [values[name] for name in ("src", "href", "srcset", "data", "action") if name in values]
        if tag == "svg":
            self.bar = values["aria-label"].rpartition(":")[0]
            self.marks[self.bar] = {}
        if tag == "rect" and values["class"] == "share":
            self.bars[self.bar] = share(values["width"])
        if tag == "line":
            ends = self.marks[self.bar].setdefault(values["class"], [])
            ends += [share(values["x1"]), share(values["x2"])]

    def handle_data(self, data: str) -> None:
        self.shown += data

    @property
    def rows(self) -> dict[str, list[str]]:
        """The cells of each row of the first table, and what is flagged, by the name of its set."""
        table = re.sub("<svg.*?</svg>", "", self.page.partition("<table>")[2].partition("</table>")[0], flags=re.S)
        rows = [re.sub(r"<[^>]*>", "|", row).split("|") for row in table.split("<tr>")[1:]]
        cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
        return {row[0]: row[1:] for row in cells}


def share(width: str) -> float:
    assert width.endswith("%")
    return float(width[:-1]) / 100


def read(
    models: Scores | Mapping[str, Scores] | None = None,
    published: Mapping[str, Mapping[str, float]] | None = None,
    misses: Sequence[Miss] = (),
) -> Reader:
    models = models or scores("student", TASKS)
    named = {models.model.name: models} if isinstance(models, Scores) else models
    return Reader(report_page(named, published or {}, misses))


def test_every_bar_is_as_long_as_its_score() -> None:
    expected = {name: task.score for name, task in TASKS.items()} | scores("student", TASKS).aggregates
    del expected["overall"]
    assert read().bars == pytest.approx({f"student, {name}": score for name, score in expected.items()}, abs=5e-5)
    other = TASKS | {"Own": replace(TASKS["Own"], score=0.5)}
    assert read(scores("student", other)).bars["student, Own"] == 0.5, "another score is another bar"


def test_intervals_chance_and_published_means_are_marked_where_they_are() -> None:
    reader = read(published=PUBLISHED)
    assert reader.marks["student, Names"] == {"chance": [0.2, 0.2], "interval": pytest.approx([0.3, 0.4])}
    assert reader.marks["student, retrieval"] == {"tick": [0.5, 0.5, 0.8, 0.8]}
    assert reader.marks["student, OOD"] == {"tick": [0.3, 0.3]}, "a model without every set of a group has no mean"


def test_it_names_model_benchmark_data_and_scorer() -> None:
    reader = read()
    for fact in ("student on small", "d" * 64, "scorer 2", "p" * 64, "fingerprint of student", "5.2 M parameters"):
        assert fact in reader.shown
    assert "56.9" in reader.shown and "55.9–57.9" in reader.shown, "overall with its interval"
    assert "+49.7" in reader.shown, "IND against OOD"
    assert reader.page == read().page


def test_an_incomplete_list_has_no_overall_and_names_the_sets() -> None:
    means = {"classification": 0.9, "IND": 0.9, "vqa": 0.456789}
    reader = read(
        scores("student", TASKS, missing=["Pages", "Clips"], extra=["Names"], aggregates=means, confidence={})
    )
    assert "No overall: missing Pages, Clips; extra Names" in reader.shown and "overall, %" not in reader.shown
    assert reader.rows["Pages"] == ["missing"] and reader.rows["Names"][0] == "extra"
    assert "student, retrieval" not in reader.bars and "student, retrieval" in reader.marks
    assert "No overall" not in read().shown and "missing" not in read().shown


@pytest.mark.parametrize(("tie_rate", "flagged"), [(0.0, False), (0.004, False), (0.005, True), (1.0, True)])
def test_ties_are_flagged_from_half_a_percent(tie_rate: float, flagged: bool) -> None:
    reader = read(scores("student", TASKS | {"Own": replace(TASKS["Own"], tie_rate=tie_rate)}))
    assert (f"ties {tie_rate:.1%}" in reader.rows["Own"]) == flagged == ("ties: 1 set" in reader.shown)


@pytest.mark.parametrize(
    ("changes", "chance"),
    [
        ({}, "20.0"),
        ({"candidates": 1000}, "0.1"),
        ({"metric": "hit@3"}, "60.0"),
        ({"metric": "ndcg_linear@5"}, None),
        ({"metrics": dict.fromkeys(REPORTED, 0.4) | {"recall@10": 0.3}}, None),
    ],
)
def test_chance_is_shown_where_every_query_has_one_relevant_candidate(
    changes: dict[str, Any], chance: str | None
) -> None:
    task = task_score("vqa", "OOD", 0.4, queries=77, **changes)
    cells = read(scores("student", TASKS | {"Own": task})).rows["Own"]
    assert cells[cells.index("OOD") + 1 : cells.index("77")] == ([chance] if chance else [])


def test_a_set_that_is_not_above_chance_is_flagged() -> None:
    guessed = {name: task_score("vqa", "OOD", score) for name, score in {"Low": 0.24, "High": 0.26}.items()}
    rows = read(scores("student", guessed)).rows
    assert "not above chance" in rows["Low"] and "not above chance" not in rows["High"]


def test_models_stand_beside_each_other() -> None:
    teacher = scores("any", {name: replace(task, score=1.0) for name, task in TASKS.items() if name != "Own"})
    reader = read({"student": scores("any", TASKS), "teacher": replace(teacher, missing=["Own"])})
    assert reader.rows["Names"][:4] == ["35.0", "30.0–40.0", "100.0", "30.0–40.0"]
    assert reader.rows["Own"][:4] == ["teacher: missing", "45.7", "40.7–50.7", "–"]
    assert reader.bars["student, Groups"] == 0.9 and reader.bars["teacher, Groups"] == 1
    assert "2 models on small" in reader.shown


def test_published_models_are_shown_where_they_have_the_benchmarks_sets() -> None:
    shown = read(published=PUBLISHED | {"other benchmark": {"Elsewhere": 0.5}}).shown
    assert "Beside published models" in shown and "CLIP" in shown and "other benchmark" not in shown
    assert "Beside published models" not in read(published={"other benchmark": {"Elsewhere": 0.5}}).shown


@pytest.mark.parametrize(
    "changes",
    [{"benchmark": "other"}, {"dataset_digest": "e" * 64}, {"scorer": "1"}],
    ids=lambda changes: next(iter(changes)),
)
def test_scores_that_do_not_compare_share_no_page(changes: dict[str, str]) -> None:
    one = scores("student", TASKS)
    with pytest.raises(UsageError, match="2 different"):
        read({"one": one, "two": replace(one, **changes)})
    with pytest.raises(UsageError, match="0 different"):
        report_page({}, {}, [])
    assert read({"one": one, "two": replace(one, prompts="other")}).bars


def test_no_text_of_data_runs_or_loads() -> None:
    item = Item(text=ATTACK, instruction=ATTACK)
    task = task_score(ATTACK, ATTACK, 0.21, tie_rate=0.1, metric="hit@1")
    hostile = scores(
        ATTACK, {ATTACK: task}, benchmark=ATTACK, dataset_digest=ATTACK, scorer=ATTACK, prompts=ATTACK,
        missing=[ATTACK + "?"], extra=[ATTACK], model=Model(ATTACK, ATTACK, 16, None),
    )  # fmt: skip
    misses = [Miss(ATTACK, item, item, item, 3)]
    for models in ({ATTACK: hostile}, {ATTACK: hostile, "second": hostile, "third": replace(hostile, aggregates={})}):
        reader = read(models, {ATTACK: {ATTACK: 0.5}}, misses)
        assert "script" not in reader.tags and "img" not in reader.tags and not reader.handlers
        assert reader.sources == ["data:,"] and reader.shown.count(ATTACK) > 15
    broken = Reader(reader.page.replace("&lt;", "<").replace("&gt;", ">"))
    assert {"script", "img"} <= {*broken.tags} and broken.handlers, "the reader sees what is not escaped"


def test_everything_lies_inside(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"broken")
    frames = tuple(Image.new("RGB", (20, 10), (level, 0, 0)) for level in range(0, 250, 10))
    misses = [
        Miss("Own", Item("what?", tmp_path / "red.png"), Item(image=tmp_path / "broken.png"), Item("this"), 57.5),
        Miss("Clips", Item(video=frames), Item(image=tmp_path / "absent.png"), Item("that"), 1234),
    ]
    reader = read(published=PUBLISHED, misses=misses)
    images = [source for source in reader.sources if source != "data:,"]
    assert all(image.startswith("data:image/webp;base64,") for image in images)
    opened = [Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))) for image in images]
    assert [image.size for image in opened] == [(240, 120), (20, 10), (20, 10), (20, 10)]
    levels = [image.convert("RGB").getchannel("R").getpixel((10, 5)) for image in opened[1:]]
    assert levels == pytest.approx([0, 120, 240], abs=8), "first, middle and last frame"
    assert reader.shown.count("no image") == 2
    assert "rank 57.5" in reader.shown and "rank 1,234" in reader.shown and "Worst queries of student" in reader.shown
    assert not re.search(r"https?:|url\(|@import|<link(?! rel=\"icon\")", reader.page)


def test_texts_are_shown_without_image_tokens_and_cut_where_they_are_long() -> None:
    query = Item("<|image_1|>\nWhat is prohibited?\n", instruction="Represent it.")
    shown = read(misses=[Miss("Own", query, Item("a" * 1000), Item("b"), 2)]).shown
    assert "What is prohibited?" in shown and "Represent it." in shown and "image_1" not in shown
    assert "a" * 240 + "…" in shown and "a" * 241 not in shown


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_page(path, "first")
    write_page(path, "second \ud800")
    assert [(file.name, file.read_text(encoding="utf-8")) for file in path.parent.iterdir()] == [
        ("report.html", "second ?")
    ]
