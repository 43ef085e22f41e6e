"""The score file says which candidates tie and why, and the gate's refusal repeats it."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.corpus import Item, ingest, task_names
from components.corpus.config import SOURCES
from components.corpus.inspect import source_at
from components.embedder import Embedder, Vectors
from components.errors import Refused
from components.evaluation import evaluate, read_suite
from components.evaluation.ties import UNEXPLAINED
from components.registry import compare
from components.scores import Model, Scores, Tie
from tests.evaluation.conftest import CONFIG, ConstantEmbedder, HashEmbedder, row, write_data
from tests.evaluation.test_report import PROMOTION

CASE = "they differ in case and white space alone"
Score = Callable[..., Scores]


class Caseless(HashEmbedder):
    """Sees no case, as most tokenizers."""

    def vector(self, item: Item) -> Vectors:
        return super().vector(Item((item.text or "").casefold() or None, item.image))


class BagOfWords(HashEmbedder):
    """Sees no order."""

    def vector(self, item: Item) -> Vectors:
        return np.sum(
            [super(BagOfWords, self).vector(Item(word)) for word in sorted((item.text or "").split())], axis=0
        )


@pytest.fixture
def score(tmp_path: Path) -> Score:
    def score(data: Path, embedder: Embedder) -> Scores:
        model = Model("model", type(embedder).__name__, embedder.dimension, None)
        return evaluate(embedder, model, read_suite(data), CONFIG, tmp_path / "cache", lambda _: None)

    return score


def questions(*candidates: str) -> list[dict[str, object]]:
    """Returns a query for each candidate, in its very words."""
    return [row(text, candidates, [place], qry_inst="") for place, text in enumerate(candidates)]


def test_captions_that_differ_in_case_alone_are_named(score: Score, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"Set": questions("Red dress", "red dress", "blue hat")})
    scores = score(data, Caseless())
    assert scores.tasks["Set"].tie_rate == pytest.approx(2 / 3)
    assert scores.tasks["Set"].ties == [
        Tie("'Red dress'", "'red dress'", CASE),
        Tie("'red dress'", "'Red dress'", CASE),
    ]
    verdict = compare(scores, None, PROMOTION, ["Set"])
    said = f"; 'Red dress' and 'red dress' tie: {CASE}; "
    assert len(verdict.reasons) == 1 and verdict.reasons[0].startswith("challenger: Set: 66.7% of the queries are ties")
    assert said in verdict.reasons[0]
    with pytest.raises(Refused, match="'red dress' tie") as refusal:
        verdict.require()
    assert "champion" not in refusal.value.remedy, "there is none that could stay"
    with pytest.raises(Refused) as refusal:
        compare(scores, scores, PROMOTION, ["Set"]).require()
    assert refusal.value.remedy.startswith("The champion stays. ")
    scores.write(tmp_path / "scores.json")
    assert Scores.read(tmp_path / "scores.json") == scores

    separated = score(data, HashEmbedder()).tasks["Set"]
    assert (separated.tie_rate, separated.ties) == (0, [])


def test_the_same_words_in_another_order_are_named(score: Score, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"Set": questions("man bites dog", "dog bites man")})
    assert score(data, BagOfWords()).tasks["Set"].ties[0] == Tie(
        "'man bites dog'", "'dog bites man'", "they have the same words"
    )


def test_equal_images_are_named_by_their_files(score: Score, tmp_path: Path) -> None:
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(images / name)
    asked = row("a.png", ["", "", ""], [0], qry_text="", qry_img_path="a.png", qry_inst="",
                tgt_img_path=["a.png", "b.png", "c.png"])  # fmt: skip
    (tie,) = score(write_data(tmp_path / "data", {"Set": [asked]}), HashEmbedder()).tasks["Set"].ties
    assert tie == Tie("images/a.png", "images/b.png", "they are equal")


def test_a_collapsed_model_is_not_explained_by_its_candidates(score: Score, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"Set": questions("one", "two", "three", "four", "five")})
    ties = score(data, ConstantEmbedder()).tasks["Set"].ties
    assert len(ties) == 3 and {tie.reason for tie in ties} == {UNEXPLAINED}


def test_own_captions_that_differ_in_case_alone_are_right_answers_for_each_other(score: Score, tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text"])
        for number in range(60):
            noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{number}.png")
            words = f"thing {number // 2}"
            table.writerow([f"{number}.png", words.upper() if number % 2 else words])
    section = {
        "name": "own",
        "licence": "",
        "seed": 0,
        "dev_fraction": 0.1,
        "eval_fraction": 0.5,
        "quarantine_limit": 0,
    }
    ingest(SOURCES.validate({**source_at(tmp_path / "pairs.csv"), **section}), data := tmp_path / "data")
    scores = score(data, Caseless())
    assert task_names(data, "eval") == ["own_i2t", "own_t2i"] == sorted(scores.tasks)
    assert {(task.tie_rate, len(task.ties)) for task in scores.tasks.values()} == {(0, 0)}
