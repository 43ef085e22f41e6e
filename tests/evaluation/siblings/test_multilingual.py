import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.corpus import EVAL_SCHEMA, EvaluationTask, Item, Manifest
from components.corpus.layout import write_rows
from components.corpus.manifest import data_digest
from components.embedder import Embedder, Vectors
from components.errors import DataInvalid, EmbedlineError, UsedWrongly
from components.evaluation import Suite, evaluate, read_suite
from components.evaluation.config import Evaluation
from components.evaluation.siblings.multilingual import build, measure, xtd_suite
from components.scores import Model, Scores
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, row, vouch, write_data

PICTURES = 12
Measured = Callable[[Suite, Embedder], tuple[dict[str, float], Scores]]
DISTRIBUTIONS = {"en": "IND", "de": "IND", "ja": "OOD"}


class NumberEmbedder:
    """Puts a text and a picture at the angle of the number in its name, so that equal numbers find each other."""

    name, dimension = "number", 2

    def encode(self, items: Sequence[Item]) -> Vectors:
        numbers = [int((item.text or Path(str(item.image)).stem).split()[-1]) for item in items]
        angles = 2 * np.pi * np.array(numbers) / PICTURES
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def measured(config: Evaluation, tmp_path: Path) -> Measured:
    def measured(suite: Suite, embedder: Embedder) -> tuple[dict[str, float], Scores]:
        model = Model("model", embedder.name, embedder.dimension, 7)
        scores = evaluate(embedder, model, suite, config, tmp_path / "cache", lambda _: None)
        return measure(suite, scores, {}), scores

    return measured


def write_pictures(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        number = int(Path(name).stem.rpartition("_")[2])
        Image.new("RGB", (4 + number, 4), (number * 8, 0, 0)).save(folder / name)


def questions(texts: Sequence[str]) -> list[dict[str, Any]]:
    pictures = [f"{number}.png" for number in range(PICTURES)]
    return [
        row(text, [""] * PICTURES, [number], tgt_img_path=pictures, tgt_inst="Represent it.")
        for number, text in enumerate(texts)
    ]


def add_languages(data: Path, texts: Mapping[str, Sequence[str]]) -> Path:
    """Adds a multilingual set a language to a data set, in which text i asks for picture i."""
    tasks = {}
    for language, asked in texts.items():
        write_rows(data / "multilingual" / f"{language}.parquet", EVAL_SCHEMA, questions(asked))
        tasks[language] = EvaluationTask(
            rows=len(asked), candidates=PICTURES, meta_task="retrieval", distribution=DISTRIBUTIONS[language]  # type: ignore[arg-type]
        )  # fmt: skip
    manifest = Manifest.read(data)
    changes = {"tasks": manifest.tasks.model_copy(update={"multilingual": tasks}), "digest": data_digest(data)}
    manifest.model_copy(update=changes).write(data)
    return data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """English names every picture by its number, German half of them by another one, Japanese all."""
    data = tmp_path / "data"
    write_pictures(data / "images", [f"{number}.png" for number in range(PICTURES)])
    write_data(data, {"Names": questions(["any 0"])})
    texts = {
        "en": [f"number {number}" for number in range(PICTURES)],
        "de": [f"Nummer {number if number % 2 else (number + 1) % PICTURES}" for number in range(PICTURES)],
        "ja": [f"数 {(number + 1) % PICTURES}" for number in range(PICTURES)],
    }
    return add_languages(data, texts)


def test_known_answers(data: Path, measured: Measured) -> None:
    numbers, scores = measured(build(read_suite(data)), NumberEmbedder())
    assert numbers == {
        "score, en": 1.0, "score, de": 0.5, "score, ja": 0.0,
        "gap to English, de": 0.5, "gap to English, ja": 1.0,
        "mean score, all languages": 0.5, "mean gap to English, all languages": 0.75,
        "mean score, trained languages": 0.75, "mean gap to English, trained languages": 0.5,
        "mean score, unseen languages": 0.0, "mean gap to English, unseen languages": 1.0,
    }  # fmt: skip
    assert scores.benchmark == "multilingual" and scores.tasks["de"].metric == "hit@1"
    assert scores.aggregates["overall"] == 0.5 and scores.aggregates["IND"] == 0.75
    assert scores.tasks["de"].values == [0.0, 1.0] * (PICTURES // 2), "a value a row, to be compared with English's"


def test_a_constant_encoder_is_at_chance_in_every_language_and_has_no_gap(data: Path, measured: Measured) -> None:
    numbers, scores = measured(build(read_suite(data)), ConstantEmbedder())
    for name, value in numbers.items():
        assert value == pytest.approx(0 if "gap" in name else 1 / PICTURES), name
    assert all(task.tie_rate == 1 for task in scores.tasks.values())


def test_the_pictures_are_encoded_once_for_all_languages(data: Path, measured: Measured) -> None:
    embedder = HashEmbedder()
    measured(build(read_suite(data)), embedder)
    assert sum(item.image is not None for item in embedder.encoded) == PICTURES


def test_a_data_set_without_multilingual_sets_is_told_apart(data: Path) -> None:
    shutil.rmtree(data / "multilingual")
    vouch(data)
    with pytest.raises(UsedWrongly, match="no multilingual sets") as caught:
        build(read_suite(data))
    assert "embedline ingest" in caught.value.remedy


def test_without_english_there_is_no_gap(data: Path) -> None:
    shutil.rmtree(data / "multilingual")
    add_languages(data, {"de": ["Nummer 1"]})
    with pytest.raises(UsedWrongly, match="none in English"):
        build(read_suite(data))


def test_a_missing_language_is_named(data: Path) -> None:
    (data / "multilingual" / "ja.parquet").unlink()
    vouch(data)
    with pytest.raises(EmbedlineError, match="ja: is missing"):
        build(read_suite(data))


def test_a_language_that_asks_for_other_pictures_is_no_comparison(data: Path) -> None:
    rows = questions([f"数 {number}" for number in range(PICTURES)])
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    write_rows(data / "multilingual" / "ja.parquet", EVAL_SCHEMA, rows)
    vouch(data)
    with pytest.raises(DataInvalid, match="ja: asks for other pictures than en"):
        build(read_suite(data))


# XTD


@pytest.fixture
def xtd(tmp_path: Path) -> Path:
    """The published layout in small: captions in three folders, pictures in two; two captions of one language alike."""
    folder = tmp_path / "xtd"
    names = [f"COCO_{'train' if number < 20 else 'val'}2014_{number:012}.jpg" for number in range(30)]
    write_pictures(folder / "coco" / "train2014", names[:20])
    write_pictures(folder / "coco" / "val2014", names[20:])
    captions = {
        "MIC/test_1kcaptions_en": [f"a picture {number}" for number in range(30)],
        "STAIR/test_1kcaptions_jp": [f"写真\u2028{number}" for number in range(30)],
        "XTD10/test_1kcaptions_es": [f"una foto {number // 2}" for number in range(30)],
        "XTD10/test_image_names": names,
    }
    for name, lines in captions.items():
        (folder / f"{name}.txt").parent.mkdir(exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_xtd_is_scored_as_by_sorting(xtd: Path, measured: Measured) -> None:
    """Recall@10, which the paper reports, by sorting all candidates of each caption."""
    embedder = HashEmbedder()
    numbers, scores = measured(xtd_suite(xtd, xtd / "coco"), embedder)
    names = (xtd / "XTD10/test_image_names.txt").read_text().split()
    pictures = embedder.encode([Item(image=next(xtd.rglob(name))) for name in names])
    for file in xtd.rglob("test_1kcaptions_*.txt"):
        texts = embedder.encode([Item(line) for line in file.read_text(encoding="utf-8").strip("\n").split("\n")])
        best = np.argsort(-(texts @ pictures.T), axis=1)[:, :10]
        expected = (best == np.arange(30)[:, None]).any(axis=1).astype(float)
        language = file.stem[-2:]
        assert scores.tasks[language].values == pytest.approx(expected)
        assert numbers[f"score, {language}"] == pytest.approx(expected.mean())
    assert len(set(numbers.values())) > 3 and scores.tasks["es"].metric == "recall@10"
    assert numbers.keys() & {"mean score, trained languages", "mean score, unseen languages"} == set()
    assert numbers["mean gap to English, all languages"] == pytest.approx(
        np.mean([numbers["score, en"] - numbers[f"score, {language}"] for language in ("jp", "es")])
    )


def test_xtd_in_another_place_is_the_same_and_with_another_caption_is_not(xtd: Path, tmp_path: Path) -> None:
    first = xtd_suite(xtd, xtd / "coco")
    copied = Path(shutil.copytree(xtd, tmp_path / "copy"))
    assert xtd_suite(copied, copied / "coco").digest == first.digest
    captions = copied / "MIC/test_1kcaptions_en.txt"
    captions.write_text(captions.read_text().replace("picture 3", "picture three"))
    assert xtd_suite(copied, copied / "coco").digest != first.digest


def lose_english(xtd: Path) -> None:
    shutil.rmtree(xtd / "MIC")


def give_a_language_twice(xtd: Path) -> None:
    shutil.copy(xtd / "MIC/test_1kcaptions_en.txt", xtd / "STAIR")


def lose_a_caption(xtd: Path) -> None:
    file = xtd / "XTD10/test_1kcaptions_es.txt"
    file.write_text(file.read_text().partition("\n")[2])


def empty_a_caption(xtd: Path) -> None:
    file = xtd / "XTD10/test_1kcaptions_es.txt"
    file.write_text(file.read_text().replace("una foto 3\n", "\n"))


def garble_a_caption(xtd: Path) -> None:
    (xtd / "STAIR/test_1kcaptions_jp.txt").write_bytes("写真\n".encode("shift-jis") * 30)


def lose_the_names(xtd: Path) -> None:
    (xtd / "XTD10/test_image_names.txt").unlink()


def name_a_picture_twice(xtd: Path) -> None:
    file = xtd / "XTD10/test_image_names.txt"
    file.write_text(file.read_text().replace("000000000001", "000000000000"))


def lose_a_picture(xtd: Path) -> None:
    next(xtd.rglob("*_000000000007.jpg")).unlink()


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lose_english, UsedWrongly, "en among them"),
        (give_a_language_twice, UsedWrongly, "one test_1kcaptions_LANGUAGE.txt for each language"),
        (lose_a_caption, DataInvalid, r"_es\.txt: 29 captions of 30 pictures"),
        (empty_a_caption, DataInvalid, r"_es\.txt: line 7 is empty"),
        (garble_a_caption, DataInvalid, r"_jp\.txt cannot be read"),
        (lose_the_names, DataInvalid, r"test_image_names\.txt cannot be read"),
        (name_a_picture_twice, DataInvalid, "names a picture twice"),
        (lose_a_picture, DataInvalid, "1 of 30 pictures are missing, the first is COCO_train2014_000000000007.jpg"),
    ],
)
def test_xtd_that_is_not_whole_is_refused(
    xtd: Path, spoil: Callable[[Path], None], kind: type[EmbedlineError], message: str
) -> None:
    xtd_suite(xtd, xtd / "coco")
    spoil(xtd)
    with pytest.raises(kind, match=message) as caught:
        xtd_suite(xtd, xtd / "coco")
    assert caught.value.remedy
