import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components import config as configuration
from components.corpus import EvaluationTask, Manifest, ingest, is_current, read_pairs, read_queries, task_names
from components.corpus.rows import candidates
from components.corpus.sources import emoji as emoji_corpus
from components.corpus.sources.emoji import images
from components.corpus.sources.emoji.characters import SKIN_TONES, VARIATION, Emoji, read_annotations, read_emoji
from components.corpus.sources.emoji.images import colour_image, line_art_image
from components.corpus.sources.emoji.scenes import COLOURS, NUMBERS
from components.corpus.sources.emoji.splits import Splits
from components.errors import EmbedlineError

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
Row = Mapping[str, Any]
Part = tuple[str, str]
INGEST = """
import json
import sys
from pathlib import Path
from components.corpus.config import SOURCES
from components.corpus import ingest
ingest(SOURCES.validate(json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture(scope="session")
def settings() -> emoji_corpus.Settings:
    """The corpus that this repository ships, with fewer scenes."""
    corpus = configuration.read(ROOT / configuration.PARAMETERS).corpus
    assert isinstance(corpus, emoji_corpus.Settings)
    return corpus.model_copy(update={"train_scenes": 90, "dev_scenes": 30, "eval_scenes": 90})


@pytest.fixture(scope="session")
def data(settings: emoji_corpus.Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("emoji") / "data"
    ingest(settings, data)
    return data


@pytest.fixture(scope="session")
def manifest(data: Path) -> Manifest:
    return Manifest.read(data)


@pytest.fixture(scope="session")
def train(data: Path) -> dict[str, list[Row]]:
    return {task: rows_of(data, "train", task) for task in task_names(data, "train")}


@pytest.fixture(scope="session")
def sets(data: Path) -> dict[tuple[str, str], list[Row]]:
    """The rows of every set of queries by split and name."""
    return {(split, task): rows_of(data, split, task) for split in ("dev", "eval") for task in task_names(data, split)}


@pytest.fixture(scope="session")
def languages(data: Path) -> dict[str, list[Row]]:
    """The rows of the multilingual set of every language."""
    return {language: rows_of(data, "multilingual", language) for language in task_names(data, "multilingual")}


@pytest.fixture(scope="session")
def emoji_of() -> dict[str, Emoji]:
    return {f"emoji/{emoji.code}.png": emoji for emoji in read_emoji()}


@pytest.fixture(scope="session")
def split_of(settings: emoji_corpus.Settings) -> Callable[[Emoji], str]:
    splits = Splits(settings.seed, settings.dev_fraction, settings.eval_fraction, settings.withheld_fraction)
    return splits.concept


def rows_of(data: Path, split: str, task: str) -> list[Row]:
    rows: list[Row] = pq.read_table(data / split / f"{task}.parquet").to_pylist()
    return rows


def pool_of(row: Row) -> list[Part]:
    return candidates(row["tgt_text"], row["tgt_img_path"])


def images_of(rows: Sequence[Row]) -> set[str]:
    return {row[side] for row in rows for side in ("qry_image_path", "pos_image_path") if row[side]}


# The same bytes again


@pytest.mark.slow  # the corpus is built twice
def test_another_process_builds_the_same_bytes(settings: emoji_corpus.Settings, data: Path, tmp_path: Path) -> None:
    """In a process whose sets and dictionaries of strings are ordered in another way."""
    subprocess.run(
        [sys.executable, "-c", INGEST, settings.model_dump_json(), str(tmp_path / "data")],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    first, second = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (data, tmp_path / "data")
    )
    assert first == second and len(first) > 3000


def test_the_manifest_says_what_the_corpus_is_made_of(
    manifest: Manifest, settings: emoji_corpus.Settings, data: Path
) -> None:
    languages = 1 + len(settings.trained_languages) + len(settings.unseen_languages)
    names = "\n".join(manifest.inputs)
    assert all(
        name in names for name in ("NotoColorEmoji.ttf", "Symbola_hint.ttf", "emoji-test.txt", "annotations/de.xml")
    )
    assert len(manifest.inputs) == 3 + 2 * languages and languages == 11
    assert all(len(value.sha256) == 64 and value.version for value in manifest.inputs.values())
    font = next(value for name, value in manifest.inputs.items() if "NotoColorEmoji" in name)
    assert font.sha256 == hashlib.sha256(images.COLOUR_FONT.read_bytes()).hexdigest()
    licences = " ".join(manifest.licence)
    assert all(name in licences for name in ("Open Font License", "Symbola", "Unicode"))
    assert manifest.source == "emoji" and manifest.seed == settings.seed and manifest.quarantined == 0
    assert manifest.images == sum(1 for _ in (data / "images").rglob("*.png"))
    assert manifest.tasks.train == {task: len(rows_of(data, "train", task)) for task in task_names(data, "train")}


def test_another_seed_or_setting_needs_another_corpus(settings: emoji_corpus.Settings, data: Path) -> None:
    assert is_current(settings, data)
    assert not is_current(settings.model_copy(update={"seed": 1}), data)
    assert not is_current(settings, data / "nowhere")


# Nothing of the tests in training


def test_no_concept_is_in_two_splits(
    train: dict[str, list[Row]], sets: dict[tuple[str, str], list[Row]], emoji_of: dict[str, Emoji]
) -> None:
    """By code points: what is left of a sequence without skin tones."""

    def concepts(images: set[str]) -> set[tuple[int, ...]]:
        return {
            tuple(point for point in emoji_of[image].sequence if point not in SKIN_TONES and point != VARIATION)
            for image in images
            if image in emoji_of
        }

    trained = concepts({image for rows in train.values() for image in images_of(rows)})
    asked = {
        split: concepts(
            {pool_of(row)[label][1] for row in sets[split, "NameToImageUnseen"] for label in row["label"]}
            | {row["qry_img_path"] for row in sets[split, "SkinToneUnseen"]}
        )
        for split in ("dev", "eval")
    }
    assert len(trained) > 1000 and len(asked["eval"]) > 200 and len(asked["dev"]) > 50
    assert not trained & asked["eval"] and not trained & asked["dev"] and not asked["dev"] & asked["eval"]


def test_no_image_of_a_held_out_concept_is_trained_on(
    train: dict[str, list[Row]], emoji_of: dict[str, Emoji], split_of: Callable[[Emoji], str]
) -> None:
    trained = {emoji_of[image] for rows in train.values() for image in images_of(rows) if image in emoji_of}
    assert {split_of(emoji) for emoji in trained} == {"train"}
    assert {split_of(emoji) for emoji in emoji_of.values()} == {"train", "dev", "eval"}
    assert any(emoji.skin_tones for emoji in trained)


def test_no_image_looks_like_one_that_was_trained_on(
    data: Path, train: dict[str, list[Row]], emoji_of: dict[str, Emoji], split_of: Callable[[Emoji], str]
) -> None:
    def pixels(images: set[str]) -> set[bytes]:
        return {Image.open(data / "images" / image).tobytes() for image in images}

    trained = {image for rows in train.values() for image in images_of(rows)}
    unseen = {
        image for image, emoji in emoji_of.items() if split_of(emoji) != "train" and (data / "images" / image).exists()
    }
    line_art = {f"line-art/{file.name}" for file in (data / "images" / "line-art").iterdir()}
    assert len(unseen) > 500 and len(line_art) > 500
    assert not pixels(trained) & pixels(unseen | line_art)


def test_images_that_look_the_same_would_leak_and_are_left_out(data: Path) -> None:
    """The negative control of the test above: Unicode has flags that look the same."""
    names = ("flag: Norway", "flag: Bouvet Island", "flag: Svalbard & Jan Mayen")
    flags = [emoji for emoji in read_emoji() if emoji.name in names]
    assert len(flags) == 3 and len({colour_image(flag, 32).tobytes() for flag in flags}) == 1
    assert sum((data / "images" / "emoji" / f"{flag.code}.png").exists() for flag in flags) == 1


def test_no_training_pair_is_asked_again(
    train: dict[str, list[Row]], sets: dict[tuple[str, str], list[Row]], languages: dict[str, list[Row]]
) -> None:
    """Neither in the same direction nor in the other."""
    pairs = {
        frozenset(((row["qry"].casefold(), row["qry_image_path"]), (row["pos_text"].casefold(), row["pos_image_path"])))
        for rows in train.values()
        for row in rows
    }

    def asked(rows: Sequence[Row]) -> Iterator[frozenset[Part]]:
        for row in rows:
            pool = pool_of(row)
            for label in row["label"]:
                yield frozenset(
                    ((row["qry_text"].casefold(), row["qry_img_path"]), (pool[label][0].casefold(), pool[label][1]))
                )

    again = {name: sum(pair in pairs for pair in asked(rows)) for name, rows in (sets | languages).items()}
    assert not any(again.values()), again
    control = [
        {
            "qry_text": row["qry"],
            "qry_img_path": row["qry_image_path"],
            "tgt_text": [row["pos_text"]],
            "tgt_img_path": [row["pos_image_path"]],
            "label": [0],
        }
        for row in train["NameToImage"]
    ]
    assert all(pair in pairs for pair in asked(control))


def test_unseen_languages_are_not_trained_on(train: dict[str, list[Row]], settings: emoji_corpus.Settings) -> None:
    texts = {row["qry"] for row in train["TranslatedNameToImage"]}
    names = {language: set(read_annotations(language).names.values()) for language in ("de", "zh", "ja", "ar")}
    assert len(texts & names["de"]) > 500 and len(texts & names["zh"]) > 500
    assert len(texts & names["ar"]) < 20 and len(texts & names["ja"] - names["zh"]) < 20
    assert not set(settings.trained_languages) & set(settings.unseen_languages)


def test_translations_are_of_the_names_of_the_same_images(
    train: dict[str, list[Row]], emoji_of: dict[str, Emoji]
) -> None:
    """A translated name is trained with its image and with the English name of that image, and nothing else is."""
    with_image, named = train["TranslatedNameToImage"], train["TranslatedNameToName"]
    expected = [(row["qry"], emoji_of[row["pos_image_path"]].name) for row in with_image]
    assert [(row["qry"], row["pos_text"]) for row in named] == expected and len(expected) > 500
    assert not any(row["qry_image_path"] or row["pos_image_path"] for row in named)
    assert sum(row["qry"] == row["pos_text"] for row in named) < len(named) / 10, "names differ from their translations"


# The sets of queries


def test_every_kind_of_question_is_asked_in_and_out_of_distribution(manifest: Manifest) -> None:
    tasks = manifest.tasks.eval
    assert len(tasks) >= 12
    assert {task.meta_task for task in tasks.values()} == {"classification", "vqa", "retrieval", "grounding"}
    by_meta_task = defaultdict(set)
    for task in tasks.values():
        by_meta_task[task.meta_task].add(task.distribution)
    assert all(distributions == {"IND", "OOD"} for distributions in by_meta_task.values())
    assert set(manifest.tasks.dev) < set(tasks)


def test_every_set_is_within_bounds_and_as_its_manifest_says(
    manifest: Manifest, sets: dict[tuple[str, str], list[Row]]
) -> None:
    for (split, name), rows in sets.items():
        task: EvaluationTask = getattr(manifest.tasks, split)[name]
        pool = pool_of(rows[0])
        assert task.rows == len(rows) and 0 < task.rows <= 1000, name
        assert task.candidates == len(pool) and 2 <= task.candidates <= 1000, name
        assert all(pool_of(row) == pool for row in rows), name
        assert len(set(pool)) == len(pool), name
        assert len({(row["qry_text"], row["qry_img_path"]) for row in rows}) == len(rows), name
        assert all(row["label"] and 0 <= min(row["label"]) <= max(row["label"]) < len(pool) for row in rows), name


def test_every_image_that_a_row_names_is_there(
    data: Path, train: dict[str, list[Row]], sets: dict[tuple[str, str], list[Row]]
) -> None:
    named = {image for rows in train.values() for image in images_of(rows)}
    for rows in sets.values():
        named |= {row["qry_img_path"] for row in rows} | {image for _, image in pool_of(rows[0])}
    there = {file.relative_to(data / "images").as_posix() for file in (data / "images").rglob("*.png")}
    assert named - {""} <= there
    sizes = {
        Image.open(data / "images" / image).size for image in list(named - {""})[:200] if image.startswith("emoji/")
    }
    assert sizes == {(96, 96)}


def test_the_readers_of_the_layout_read_it(data: Path, manifest: Manifest) -> None:
    assert sum(1 for _ in read_pairs(data)) == sum(manifest.tasks.train.values())
    query = next(read_queries(data, "eval", "NameToImageUnseen"))
    assert query.item.text and query.item.instruction and len(query.relevant) == 1
    assert all(isinstance(candidate.image, Path) and candidate.image.is_file() for candidate in query.candidates)


def recognisable_by_position(rows: Sequence[Row]) -> bool:
    """Whether the position of the truth is uneven over the pool, or follows the number of the row."""
    size = len(pool_of(rows[0]))
    positions = np.array([row["label"][0] for row in rows])
    if len(rows) < 50 or size < 50:
        return False
    counts = np.bincount(positions * 10 // size, minlength=10)
    chi_square = ((counts - len(rows) / 10) ** 2 / (len(rows) / 10)).sum()
    correlation = np.corrcoef(np.arange(len(rows)), positions)[0, 1]
    return bool(
        chi_square > 40 or abs(correlation) > 4.5 / np.sqrt(len(rows))
    )  # nine degrees: above 40 in 1 of 130,000


def test_the_truth_is_not_recognisable_by_its_position(sets: dict[tuple[str, str], list[Row]]) -> None:
    retrieval = {name: rows for name, rows in sets.items() if name[1] not in ("Subgroup", "SubgroupUnseen")}
    assert [name for name, rows in retrieval.items() if recognisable_by_position(rows)] == []


@pytest.mark.parametrize("order", ["as asked", "truths first"])
def test_truths_in_order_would_be_recognisable(order: str, sets: dict[tuple[str, str], list[Row]]) -> None:
    rows = sets["eval", "NameToImageUnseen" if order == "as asked" else "TranslatedNameToImage"]
    size = len(pool_of(rows[0]))
    half = rows[: size // 2]
    positions = range(len(rows)) if order == "as asked" else Random(0).sample(range(size // 2), len(half))
    assert recognisable_by_position(
        [{**row, "label": [position]} for row, position in zip(rows, positions, strict=False)]
    )


def test_right_answers_are_right(sets: dict[tuple[str, str], list[Row]], emoji_of: dict[str, Emoji]) -> None:
    for split in ("dev", "eval"):
        for row, (_, image) in answers(sets[split, "NameToImageUnseen"]):
            assert emoji_of[image].name == row["qry_text"]
        for row, (text, _) in answers(sets[split, "ImageToNameUnseen"]):
            assert emoji_of[row["qry_img_path"]].name == text
        for name in ("SkinTone", "SkinToneUnseen"):
            for row, (text, _) in answers(sets[split, name]):
                assert emoji_of[row["qry_img_path"]].skin_tones == (text,)
        for name in ("Subgroup", "SubgroupUnseen"):
            for row, (text, _) in answers(sets[split, name]):
                assert emoji_of[row["qry_img_path"]].subgroup.replace("-", " ") == text
        for name in ("Composed", "ComposedUnseen"):
            for row, (_, image) in answers(sets[split, name]):
                before, after = emoji_of[row["qry_img_path"]], emoji_of[image]
                assert before.neutral == after.neutral and before != after
                assert row["qry_text"] == (
                    f"as a {after.gender}" if before.skin_tones == after.skin_tones else f"with {after.skin_tones[0]}"
                )
    for row, (_, image) in answers(sets["eval", "NameToLineArt"]):
        assert emoji_of[image.replace("line-art", "emoji")].name == row["qry_text"]


def test_a_translated_name_finds_every_image_of_that_name(
    sets: dict[tuple[str, str], list[Row]], emoji_of: dict[str, Emoji], settings: emoji_corpus.Settings
) -> None:
    for name, languages in (
        ("TranslatedNameToImage", settings.trained_languages),
        ("UnseenLanguageToImage", settings.unseen_languages),
    ):
        annotations = [read_annotations(language) for language in languages]
        seen = set()
        for row, (_, image) in answers(sets["eval", name]):
            speaking = [
                language
                for language, names in zip(languages, annotations, strict=True)
                if names.name(emoji_of[image]) == row["qry_text"]
            ]
            assert speaking
            seen.update(speaking)
        assert seen == set(languages)


def test_every_language_asks_for_the_same_unseen_images_among_the_same_candidates(
    languages: dict[str, list[Row]],
    manifest: Manifest,
    settings: emoji_corpus.Settings,
    emoji_of: dict[str, Emoji],
    split_of: Callable[[Emoji], str],
) -> None:
    english = languages["en"]
    asked = [image for _, (_, image) in answers(english)]
    assert len(asked) == len(set(asked)) == len(english) > 300
    assert {split_of(emoji_of[image]) for _, image in pool_of(english[0])} == {"eval"}
    for language, rows in languages.items():
        assert [image for _, (_, image) in answers(rows)] == asked
        assert all(pool_of(row) == pool_of(english[0]) for row in rows)
        task = manifest.tasks.multilingual[language]
        assert (task.rows, task.candidates) == (len(asked), len(pool_of(english[0])))
    unseen = {language for language, task in manifest.tasks.multilingual.items() if task.distribution == "OOD"}
    assert unseen == set(settings.unseen_languages)
    assert languages.keys() == manifest.tasks.multilingual.keys() == unseen | {"en", *settings.trained_languages}
    assert not recognisable_by_position(english)


def test_every_language_asks_by_its_own_names(languages: dict[str, list[Row]], emoji_of: dict[str, Emoji]) -> None:
    for language, rows in languages.items():
        annotations = read_annotations(language)
        assert [row["qry_text"] for row in rows] == [
            annotations.name(emoji_of[image]) for _, (_, image) in answers(rows)
        ]
        assert len({row["qry_text"].casefold() for row in rows}) == len(rows)
    texts = [{row["qry_text"] for row in rows} for rows in languages.values()]
    assert len(set.intersection(*texts)) < 0.05 * len(texts[0])


def test_keywords_find_every_image_that_has_them_all(
    sets: dict[tuple[str, str], list[Row]], emoji_of: dict[str, Emoji]
) -> None:
    english = read_annotations("en")
    several = 0
    for name in ("KeywordsToImage", "KeywordsToImageUnseen"):
        rows = sets["eval", name]
        words = [set(english.keywords_of(emoji_of[image])) for _, image in pool_of(rows[0])]
        for row in rows:
            right = {position for position, known in enumerate(words) if set(row["qry_text"].split(", ")) <= known}
            assert set(row["label"]) == right
            several += len(right) > 1
    assert several > 10


def answers(rows: Sequence[Row]) -> Iterator[tuple[Row, Part]]:
    for row in rows:
        pool = pool_of(row)
        for label in row["label"]:
            yield row, pool[label]


# Scenes


def test_colours_are_those_of_the_ground(data: Path, sets: dict[tuple[str, str], list[Row]]) -> None:
    rows = sets["eval", "Colour"] + sets["eval", "ColourUnseen"]
    for row, (colour, _) in answers(rows):
        scene = Image.open(data / "images" / row["qry_img_path"])
        counts = {
            count for count, found in scene.getcolors(scene.width * scene.height) or [] if found == COLOURS[colour]
        }
        assert counts and max(counts) > 500, row["qry_img_path"]
    assert len({answer for _, answer in answers(rows)}) > 5


def test_crops_are_cut_out_of_their_scene(data: Path, sets: dict[tuple[str, str], list[Row]]) -> None:
    for row, (_, image) in list(answers(sets["eval", "Grounding"]))[:20]:
        scene, crop = (np.asarray(Image.open(data / "images" / path)) for path in (row["qry_img_path"], image))
        side = len(crop)
        windows = np.lib.stride_tricks.sliding_window_view(scene, crop.shape)[:, :, 0]
        assert crop.shape == (side, side, 3) and (windows == crop).all((2, 3, 4)).any()


def test_trained_scenes_hold_trained_concepts_alone(
    train: dict[str, list[Row]],
    sets: dict[tuple[str, str], list[Row]],
    emoji_of: dict[str, Emoji],
    split_of: Callable[[Emoji], str],
) -> None:
    by_name = {emoji.name: split_of(emoji) for emoji in emoji_of.values()}
    assert {by_name[row["qry"]] for row in train["Grounding"]} == {"train"}
    for split in ("dev", "eval"):
        assert {by_name[row["qry_text"]] for row in sets[split, "Grounding"]} == {"train"}
        assert {by_name[row["qry_text"]] for row in sets[split, "GroundingUnseen"]} == {split}
    scenes = [
        {row["qry_img_path"] for row in sets[split, name]} for split in ("dev", "eval") for name in ("Colour", "LeftOf")
    ]
    assert not set.union(*scenes) & {row["qry_image_path"] for row in train["Colour"]}


def test_numbers_are_spread(train: dict[str, list[Row]]) -> None:
    counts = Counter(row["pos_text"] for row in train["HowMany"])
    assert set(counts) <= set(NUMBERS) and len(counts) >= 5 and max(counts.values()) < 0.5 * counts.total()


# What is missing


@pytest.mark.parametrize(
    ("font", "package", "draw"),
    [
        ("COLOUR_FONT", "fonts-noto-color-emoji", colour_image),
        ("LINE_ART_FONT", "fonts-symbola", line_art_image),
    ],
)
def test_a_missing_font_names_its_package(
    font: str, package: str, draw: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "font.ttf"
    monkeypatch.setattr(images, font, missing)
    with pytest.raises(EmbedlineError, match=r"font\.ttf") as raised:
        draw(read_emoji()[0], 32, missing)
    assert f"apt-get install {package}" in raised.value.remedy


def test_missing_unicode_files_name_their_package(tmp_path: Path) -> None:
    with pytest.raises(EmbedlineError, match=r"emoji-test\.txt") as raised:
        read_emoji(tmp_path / "emoji-test.txt")
    assert "apt-get install unicode-data" in raised.value.remedy
    with pytest.raises(EmbedlineError, match=r"xx\.xml") as raised:
        read_annotations("xx", tmp_path)
    assert "apt-get install unicode-cldr-core" in raised.value.remedy


def test_a_missing_font_stops_the_ingest_and_leaves_the_old_data(
    settings: emoji_corpus.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old").touch()
    monkeypatch.setattr(emoji_corpus, "COLOUR_FONT", tmp_path / "no-font.ttf")
    monkeypatch.setattr(emoji_corpus, "read_emoji", cache(lambda: read_emoji()[::20]))
    with pytest.raises(EmbedlineError, match=r"no-font\.ttf") as raised:
        ingest(settings, tmp_path / "data")
    assert "fonts-noto-color-emoji" in raised.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and (tmp_path / "data" / "old").exists()


def test_a_corpus_without_translations_and_with_one_scene_can_be_built(
    settings: emoji_corpus.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji_corpus, "read_emoji", cache(lambda: read_emoji()[::20]))
    smallest = settings.model_copy(
        update={"trained_languages": [], "unseen_languages": [], "train_scenes": 1, "dev_scenes": 1, "eval_scenes": 1}
    )
    built = ingest(smallest, tmp_path / "data")
    assert not {"TranslatedNameToImage", "TranslatedNameToName", "HowMany"} & built.tasks.train.keys()
    assert built.tasks.multilingual.keys() == {"en"}
    counts = [
        *built.tasks.train.values(),
        *(task.rows for task in (*built.tasks.dev.values(), *built.tasks.eval.values())),
    ]
    assert min(counts) > 0
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["tasks"]["train"] == built.tasks.train
