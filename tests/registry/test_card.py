"""The model card: complete, and each of its numbers is that of the file that it comes from."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.corpus.manifest import EvaluationTask, Input, Manifest, Tasks
from components.export.licences import UNKNOWN, model_licence, spdx, together
from components.markdown import as_html
from components.registry import Verdict, compare, model_card
from components.registry.card import Blessed, summary
from components.registry.config import Promotion
from components.scores import Scores

MakeCard = Callable[..., str]
REQUIRED = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Training data",
    "Training",
    "Evaluation data",
    "Scores",
    "Compared with the champion",
    "Parity",
    "On a server",
    "Ethical considerations",
    "Limits",
    "Where it comes from",
    "Parameters",
)
METADATA = ("language", "license", "library_name", "pipeline_tag", "tags", "datasets", "base_model", "model-index")
MANIFEST = Manifest(
    name="emoji",
    source="emoji",
    licence=["OFL-1.1", "Unicode-3.0"],
    inputs={"fonts-noto-color-emoji": Input(version="2.051", sha256="f" * 64)},
    corpus={"trained_languages": ["en", "de"], "unseen_languages": ["fi"]},
    seed=0,
    tasks=Tasks(
        train={"names": 1234},
        eval={"names": EvaluationTask(rows=200, candidates=100, meta_task="retrieval", distribution="IND")},
    ),
    images=4321,
    quarantined=2,
    digest="d" * 64,
)
PARITY = {"items": 64, "minimum": 0.98765, "mean": 0.99876, "rank_agreement_10": 0.9375}
LOSSES = [{"losses": [{"name": "contrastive"}]}]
RECIPE = {
    "schedule": {"steps": 840, "batch_size": 256},
    "phases": LOSSES,
    "backbone": {"text": {"model": "sentence-transformers/all-MiniLM-L6-v2"}},
}
CHECKS = {
    "server_cosine": 0.99991,
    "latency_ms": 3.21,
    "loaded_latency_ms": 7.65,
    "requests_per_second": 432.1,
    "memory_bytes": 123_400_000,
    "size_bytes": 5_430_000,
    "load_seconds": 1.98,
    "champion_loaded_latency_ms": 6.54,
    "champion_memory_bytes": 120_000_000,
    "slowdown_latency": 1.17,
    "slowdown_latency_lower": 1.05,
    "slowdown_latency_upper": 1.31,
    "network_tries": 0,
    "network_proof": "network namespace",
}


@pytest.fixture
def files(make_scores: Callable[..., Scores], tmp_path: Path) -> dict[str, Scores]:
    """Score files of four models, each set of each with a score of its own, as they are read."""
    shares = {"teacher": 0.61, "student": 0.555, "onnx-fp32": 0.545, "onnx-int8": 0.5}
    made = {}
    for place, (name, share) in enumerate(shares.items()):
        scores = make_scores(name, share, names=share + 0.2, counts=share - 0.1 - 0.005 * place)
        scores.write(tmp_path / f"{name}.json")
        made[name] = scores
    return made


@pytest.fixture
def quality(make_scores: Callable[..., Scores], files: dict[str, Scores], promotion_config: Promotion) -> Verdict:
    return compare(files["onnx-int8"], make_scores("champion", 0.45), promotion_config, files["onnx-int8"].tasks)


@pytest.fixture
def make(files: dict[str, Scores], quality: Verdict) -> MakeCard:
    def made(blessed: bool = True, **changes: Any) -> str:
        known = Blessed(quality, CHECKS, {"teacher": 301.0, "distill": 65.0}, {"teacher": 571.0}) if blessed else None
        parameters = {"seed": 1, "teacher": RECIPE, "distillation": RECIPE}
        given: dict[str, Any] = {
            "parity": PARITY,
            "licence": "Apache-2.0",
            "base_models": ["sentence-transformers/all-MiniLM-L6-v2"],
            "blessed": known,
        }
        lineage = {"git_commit": "c0ffee", "flow_run": None}
        return model_card("Embedline emoji", "int8", files, MANIFEST, parameters, lineage, **given | changes)

    return made


def incomplete(card: str) -> list[str]:
    """Returns the sections and the metadata that a card lacks, or that are empty."""
    metadata = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
    found = {title: text.strip() for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", card, re.M | re.S)}
    return [title for title in REQUIRED if not found.get(title)] + [key for key in METADATA if not metadata.get(key)]


def tables(card: str, section: str) -> list[dict[str, str]]:
    """Returns the rows of a section's tables, by their column's head; the first column is called `name`."""
    text = card.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows, head = [], list[str]()
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = ["name", *cells[1:]]
        elif set(line) - set("|- "):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


@pytest.mark.parametrize("blessed", [False, True])
def test_a_card_lacks_no_section_before_and_after_the_blessing(make: MakeCard, blessed: bool) -> None:
    assert incomplete(make(blessed)) == []


@pytest.mark.parametrize("section", REQUIRED)
def test_a_card_without_a_section_is_found_incomplete(make: MakeCard, section: str) -> None:
    without = re.sub(rf"^## {section}\n.*?(?=^## |\Z)", "", make(), count=1, flags=re.M | re.S)
    assert incomplete(without) == [section]
    emptied = re.sub(rf"(^## {section}\n).*?(?=^## |\Z)", r"\1\n", make(), count=1, flags=re.M | re.S)
    assert incomplete(emptied) == [section]


@pytest.mark.parametrize("key", METADATA)
def test_a_card_without_metadata_is_found_incomplete(make: MakeCard, key: str) -> None:
    _, metadata, text = make().split("---\n", 2)
    kept = yaml.safe_dump({name: value for name, value in yaml.safe_load(metadata).items() if name != key})
    assert incomplete(f"---\n{kept}---\n{text}") == [key]


def test_every_score_is_that_of_the_score_file(make: MakeCard, files: dict[str, Scores], tmp_path: Path) -> None:
    card = make()
    shipped = json.loads((tmp_path / "onnx-int8.json").read_text())
    teacher = json.loads((tmp_path / "teacher.json").read_text())
    (model,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    exact = {one["dataset"]["name"]: one["metrics"][0]["value"] for one in model["results"]}
    assert exact == {name: task["score"] for name, task in shipped["tasks"].items()}, "not rounded for machines"
    rows = {row["name"]: row for row in tables(card, "Scores")}
    for group in ("overall", "IND", "OOD", "vqa"):
        for name, column in (("teacher", "teacher"), ("student", "student"), ("onnx-fp32", "exported, fp32")):
            source = json.loads((tmp_path / f"{name}.json").read_text())
            assert rows[group][column] == shown(source["aggregates"][group])
        assert rows[group]["exported, int8"] == shown(shipped["aggregates"][group])
    low, high = shipped["confidence"]["overall"]
    assert rows["overall"]["shipped, 95 %"] == f"{shown(low)} to {shown(high)}"
    for name, task in shipped["tasks"].items():
        low, high = task["interval"]
        assert rows[name]["95 %"] == f"{shown(low)} to {shown(high)}"
        assert rows[name]["shipped"] == shown(task["score"])
        assert rows[name]["teacher"] == shown(teacher["tasks"][name]["score"])
        assert (rows[name]["queries"], rows[name]["candidates"]) == (str(task["queries"]), str(task["candidates"]))
    assert int(rows["parameters"]["teacher"].replace(",", "")) == teacher["model"]["parameters"]


def test_the_champion_stands_beside_with_the_numbers_of_the_verdict(make: MakeCard, quality: Verdict) -> None:
    card = make()
    found = {row["name"]: row for row in tables(card, "Compared with the champion")}
    assert set(found) == {row["name"] for row in quality.table} and quality.sentence in card
    for row in quality.table:
        head = ("this model", "champion", "difference", "at least", "at most")
        measured = (row["challenger"], row["champion"], row["difference"], row["lower"], row["upper"])
        assert [found[row["name"]][name] for name in head] == [shown(value) for value in measured]


def test_the_other_numbers_are_those_that_were_measured(make: MakeCard) -> None:
    card = make()
    server = {row["name"]: (row["this model"], row["champion"]) for row in tables(card, "On a server")}
    assert server["median latency under load, ms"] == ("7.65", "6.54")
    assert server["median of single text requests, ms"] == ("3.21", "-")
    assert server["requests a second under load"] == ("432.1", "-")
    assert server["resident memory of the server, MB"] == ("123.4", "120.0")
    assert server["size of the version, MB"] == ("5.43", "-") and server["seconds until it is ready"] == ("1.98", "-")
    assert "Latency: 1.17 times as slow as the champion (1.05 to 1.31)." in card
    assert "Tries to reach a network: 0 (proof: network namespace)." in card
    times = {row["name"]: (row["seconds"], row["CPU seconds"]) for row in tables(card, "Training")}
    assert times == {"teacher": ("301", "571"), "distill": ("65", "-")}
    assert "**teacher**: 840 steps of at most 256 pairs, losses contrastive." in card
    assert "on 64 items: least cosine 0.98765, mean 0.99876; of an item's ten nearest 0.938 are the same" in card
    assert "Trained on names in: en, de. Scored, never trained on: fi." in card
    assert "OFL-1.1; Unicode-3.0" in card and f"`{'f' * 64}`" in card
    assert "4,321 images" in card and "1,234 training rows" in card and "2 rows were rejected" in card
    assert "* git commit: `c0ffee`" in card and "* model fingerprint: `onnx-int8`" in card and "flow run" not in card
    assert "seed: 1" in card and "None" not in card and "nan" not in card


def test_a_training_is_as_long_as_its_recipe_says(make: MakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPE, "schedule", {"steps": None, "epochs": 3, "batch_size": 64})
    assert "**teacher**: 3 epochs in batches of at most 64 pairs, losses contrastive." in make()


def test_before_the_blessing_the_card_says_where_the_rest_is(make: MakeCard) -> None:
    card = make(blessed=False)
    assert card.count("see `blessed_model_card.md` of the round in MLflow") == 3
    assert make(blessed=False) == card, "the same input gives the same bytes"


class Page(HTMLParser):
    """The headings and cells of a page, and whatever it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.headings, self.cells, self.fetched = "", list[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")] + ["x"] * (tag == "script")

    def handle_data(self, data: str) -> None:
        {"h2": self.headings, "td": self.cells}.get(self.inside, []).append(data)

    def handle_endtag(self, _: str) -> None:
        self.inside = ""


def test_the_page_says_the_same_and_needs_nothing_beside_it(make: MakeCard) -> None:
    card, page = make(), Page()
    page.feed(as_html(card))
    assert page.headings == [title for title in re.findall(r"^## (.+)$", card, re.M)]
    rows = [row for title in REQUIRED for row in tables(card, title)]
    assert {cell.strip("`") for row in rows for cell in row.values()} - {""} <= {*page.cells, "f" * 64}
    assert page.fetched == []
    assert "<script>" not in as_html("# a\n\n<script>alert(1)</script>")


def test_the_summary_fits_where_a_version_is_described(make: MakeCard, quality: Verdict) -> None:
    text = summary(make(), quality, 5000)
    assert text.startswith("A multimodal embedding model") and quality.sentence in text
    assert len(summary(make(), quality, 50)) == 50


def test_licences_have_the_names_of_spdx_and_what_is_not_known_is_stated(tmp_path: Path) -> None:
    assert model_licence("sentence-transformers/all-MiniLM-L6-v2") == "Apache-2.0"
    assert model_licence("no/such-model") == spdx("of my own") == together([]) == UNKNOWN
    assert together(["MIT", "Apache-2.0", "MIT"]) == "Apache-2.0 AND MIT"
    assert together(["MIT", UNKNOWN]) == UNKNOWN
    for text, found in (
        ("---\nlicense: mit\n---\n# M\n", "MIT"),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n# M\n", "CC-BY-4.0 AND MIT"),
        ("---\nlicense: other\n---\n# M\n", UNKNOWN),
        ("# M\n", UNKNOWN),
        ("---\n: : :\n---\n", UNKNOWN),
    ):
        (tmp_path / "README.md").write_text(text)
        assert model_licence(str(tmp_path)) == found


def shown(value: float) -> str:
    return f"{100 * value:.1f}"
