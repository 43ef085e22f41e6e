import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.corpus import EVAL_SCHEMA, EvaluationTask, Item, Manifest
from components.corpus.layout import write_rows
from components.corpus.manifest import data_digest
from components.embedder import Embedder, Vectors
from components.errors import DataInvalid, EmbedlineError, UsageError
from components.evaluation import Suite, evaluate, read_suite
from components.evaluation.config import Evaluation
from components.evaluation.probes.multilingual import build, measure
from components.scores import Model, Scores
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, row, vouch, write_data, write_images

IMAGES = 12
Measured = Callable[[Suite, Embedder], tuple[dict[str, float], Scores]]
DISTRIBUTIONS = {"en": "IND", "de": "IND", "ja": "OOD"}


class NumberEmbedder:
    """Puts a text and an image at the angle of the number in its name, so that equal numbers find each other."""

    name, dimension = "number", 2

    def encode(self, items: Sequence[Item]) -> Vectors:
        numbers = [int((item.text or Path(str(item.image)).stem).split()[-1]) for item in items]
        angles = 2 * np.pi * np.array(numbers) / IMAGES
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def measured(config: Evaluation, tmp_path: Path) -> Measured:
    def measured(suite: Suite, embedder: Embedder) -> tuple[dict[str, float], Scores]:
        model = Model("model", embedder.name, embedder.dimension, 7)
        scores = evaluate(embedder, model, suite, config, tmp_path / "cache", lambda _: None)
        return measure(suite, scores, {}), scores

    return measured


def questions(texts: Sequence[str]) -> list[dict[str, Any]]:
    images = [f"{number}.png" for number in range(IMAGES)]
    return [
        row(text, [""] * IMAGES, [number], tgt_img_path=images, tgt_inst="Represent it.")
        for number, text in enumerate(texts)
    ]


def add_languages(data: Path, texts: Mapping[str, Sequence[str]]) -> Path:
    """Adds a multilingual set a language to a data set, in which text i asks for image i."""
    tasks = {}
    for language, asked in texts.items():
        write_rows(data / "multilingual" / f"{language}.parquet", EVAL_SCHEMA, questions(asked))
        tasks[language] = EvaluationTask(
            rows=len(asked), candidates=IMAGES, meta_task="retrieval", distribution=DISTRIBUTIONS[language]  # type: ignore[arg-type]
        )  # fmt: skip
    manifest = Manifest.read(data)
    changes = {"tasks": manifest.tasks.model_copy(update={"multilingual": tasks}), "digest": data_digest(data)}
    manifest.model_copy(update=changes).write(data)
    return data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """English names every image by its number, German half of them by another one, Japanese all."""
    data = tmp_path / "data"
    write_images(data / "images", [f"{number}.png" for number in range(IMAGES)])
    write_data(data, {"Names": questions(["any 0"])})
    texts = {
        "en": [f"number {number}" for number in range(IMAGES)],
        "de": [f"Nummer {number if number % 2 else (number + 1) % IMAGES}" for number in range(IMAGES)],
        "ja": [f"数 {(number + 1) % IMAGES}" for number in range(IMAGES)],
    }
    return add_languages(data, texts)


def test_known_answers(data: Path, measured: Measured) -> None:
    numbers, scores = measured(build(read_suite(data), Path()), NumberEmbedder())
    assert numbers == {
        "score, en": 1.0, "score, de": 0.5, "score, ja": 0.0,
        "gap to English, de": 0.5, "gap to English, ja": 1.0,
        "mean score, all languages": 0.5, "mean gap to English, all languages": 0.75,
        "mean score, trained languages": 0.75, "mean gap to English, trained languages": 0.5,
        "mean score, unseen languages": 0.0, "mean gap to English, unseen languages": 1.0,
    }  # fmt: skip
    assert scores.benchmark == "multilingual" and scores.tasks["de"].metric == "hit@1"
    assert scores.aggregates["overall"] == 0.5 and scores.aggregates["IND"] == 0.75
    assert scores.tasks["de"].values == [0.0, 1.0] * (IMAGES // 2), "a value a row, to be compared with English's"


def test_a_constant_encoder_is_at_chance_in_every_language_and_has_no_gap(data: Path, measured: Measured) -> None:
    numbers, scores = measured(build(read_suite(data), Path()), ConstantEmbedder())
    for name, value in numbers.items():
        assert value == pytest.approx(0 if "gap" in name else 1 / IMAGES), name
    assert all(task.tie_rate == 1 for task in scores.tasks.values())


def test_the_images_are_encoded_once_for_all_languages(data: Path, measured: Measured) -> None:
    embedder = HashEmbedder()
    measured(build(read_suite(data), Path()), embedder)
    assert sum(item.image is not None for item in embedder.encoded) == IMAGES


def test_a_data_set_without_multilingual_sets_is_refused(data: Path) -> None:
    shutil.rmtree(data / "multilingual")
    vouch(data)
    with pytest.raises(UsageError, match="no multilingual sets") as caught:
        build(read_suite(data), Path())
    assert "embedline ingest" in caught.value.remedy


def test_without_english_there_is_no_gap(data: Path) -> None:
    shutil.rmtree(data / "multilingual")
    add_languages(data, {"de": ["Nummer 1"]})
    with pytest.raises(UsageError, match="none in English"):
        build(read_suite(data), Path())


def test_a_missing_language_is_named(data: Path) -> None:
    (data / "multilingual" / "ja.parquet").unlink()
    vouch(data)
    with pytest.raises(EmbedlineError, match="ja: is missing"):
        build(read_suite(data), Path())


def test_a_language_that_asks_for_other_images_is_no_comparison(data: Path) -> None:
    rows = questions([f"数 {number}" for number in range(IMAGES)])
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    write_rows(data / "multilingual" / "ja.parquet", EVAL_SCHEMA, rows)
    vouch(data)
    with pytest.raises(DataInvalid, match="ja: asks for other images than en"):
        build(read_suite(data), Path())


# XTD
