"""The emoji corpus: a real, multilingual, licensed data set made from what Debian's packages hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import pyarrow as pa
from fontTools.ttLib import TTFont
from PIL import Image

from components.corpus.config import SourceSettings
from components.corpus.layout import write_table
from components.corpus.manifest import Distribution, EvaluationTask, Input, Tasks
from components.corpus.quarantine import Quarantine
from components.corpus.rows import EVAL_SCHEMA, TRAIN_SCHEMA
from components.corpus.sources.emoji.characters import (
    CLDR,
    EMOJI_TEST,
    Emoji,
    annotation_files,
    read_annotations,
    read_emoji,
)
from components.corpus.sources.emoji.evaluation import EvaluationSet, evaluation_sets, line_art, multilingual_sets
from components.corpus.sources.emoji.images import (
    COLOUR_FONT,
    LINE_ART_FONT,
    colour_image,
    line_art_image,
    on_white,
)
from components.corpus.sources.emoji.scenes import Scene, compose
from components.corpus.sources.emoji.splits import Inventory, Splits
from components.corpus.sources.emoji.training import crop, emoji_image, scene_image, training_tables
from components.errors import EmbedlineError
from components.files import file_sha256
from components.sections import Fraction, Positive

LICENCES = "; ".join(
    (
        "Noto Color Emoji: SIL Open Font License 1.1",
        "Symbola: free for any use, by George Douros",
        "Unicode emoji data and CLDR: Unicode License (Unicode-DFS-2016)",
    )
)
QUICK_COMPRESSION = 1  # PNG: a third larger, three times as fast


class Settings(SourceSettings):
    """How the emoji corpus is built: languages by CLDR code, fractions of concepts, numbers of composed scenes."""

    source: Literal["emoji"]
    licence: str = LICENCES
    trained_languages: list[str]
    unseen_languages: list[str]
    withheld_fraction: Fraction
    train_scenes: Positive
    dev_scenes: Positive
    eval_scenes: Positive
    image_size: Positive
    scene_size: Positive


def build(settings: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    """Writes `images/`, `train/`, `dev/`, `eval/` and `multilingual/` below `directory` and returns what they hold.

    The same fonts, Unicode files and seed give the same bytes. Raises `EmbedlineError` that names the Debian
    package of a font or file that is missing.
    """
    languages: dict[str, Distribution] = dict.fromkeys(["en", *settings.trained_languages], "IND")
    languages |= dict.fromkeys(settings.unseen_languages, "OOD")
    colour = distinct_images(read_emoji(), settings.image_size)
    inventory = Inventory(
        list(colour),
        {language: read_annotations(language) for language in languages},
        Splits(settings.seed, settings.dev_fraction, settings.eval_fraction, settings.withheld_fraction),
    )
    images = directory / "images"
    for emoji, image in colour.items():
        _save(on_white(image), images / emoji_image(emoji))
    drawn = set()
    for emoji in inventory.concepts:
        if art := line_art_image(emoji, settings.image_size):
            _save(on_white(art), images / line_art(emoji))
            drawn.add(emoji)

    def scenes(prefix: str, concepts: Sequence[Emoji], count: int) -> list[Scene]:
        """Composes scenes of the concepts, and saves them with the crop of every named thing."""
        made = []
        for scene in compose(concepts, colour, count, settings.scene_size, prefix, Random(f"{settings.seed}:{prefix}")):
            _save(scene.image, images / scene_image(scene))
            for emoji, box in scene.boxes:
                _save(scene.image.crop(box), images / crop(scene, emoji))
            made.append(scene)
        return made

    known = inventory.concepts_of("train")
    training = training_tables(inventory, scenes("train", known, settings.train_scenes), settings.trained_languages)
    rows = {
        name: write_table(directory / "train" / f"{name}.parquet", TRAIN_SCHEMA, table)
        for name, table in training.items()
    }
    trained_pairs = _pairs(training.values())

    def queries(split: Literal["dev", "eval"], count: int) -> dict[str, EvaluationTask]:
        composed: dict[Distribution, list[Scene]] = {
            "IND": scenes(split, known, count),
            "OOD": scenes(f"{split}-unseen", inventory.concepts_of(split), count),
        }
        sets = evaluation_sets(
            inventory, split, composed, drawn, settings.trained_languages, settings.unseen_languages, trained_pairs
        )
        return _write(sets, directory / split)

    return Tasks(
        train=rows,
        dev=queries("dev", settings.dev_scenes),
        eval=queries("eval", settings.eval_scenes),
        multilingual=_write(multilingual_sets(inventory, languages), directory / "multilingual"),
    )


def distinct_images(emoji: Sequence[Emoji], size: int) -> dict[Emoji, Image.Image]:
    """Returns the image of each emoji, without those that look exactly like an earlier one.

    Norway's flag is also that of Svalbard: with both, a concept that is never trained on would be seen in training.
    """
    found: dict[bytes, tuple[Emoji, Image.Image]] = {}
    for one in emoji:
        image = colour_image(one, size)
        found.setdefault(image.tobytes(), (one, image))
    return dict(found.values())


def inputs(settings: Settings) -> dict[str, Input]:
    """Returns the versions and hashes of the fonts and Unicode files that the corpus is made from."""
    languages = ["en", *settings.trained_languages, *settings.unseen_languages]
    versions = {COLOUR_FONT: _font_version, LINE_ART_FONT: _font_version, EMOJI_TEST: _unicode_version}
    versions |= {path: _cldr_version for language in languages for path in annotation_files(language)}
    missing = [str(path) for path in versions if not path.is_file()]
    if missing:
        raise EmbedlineError(
            f"missing: {', '.join(missing)}",
            "Install them with: apt-get install fonts-noto-color-emoji fonts-symbola unicode-cldr-core unicode-data",
        )
    return {
        "/".join(path.parts[-2:]): Input(version=version(path), sha256=file_sha256(path))
        for path, version in versions.items()
    }


def _write(sets: Iterable[EvaluationSet], folder: Path) -> dict[str, EvaluationTask]:
    """Writes each set that has queries, and returns what the manifest says about it."""
    written = {}
    for task in sets:
        if task.queries:
            write_table(folder / f"{task.name}.parquet", EVAL_SCHEMA, task.table())
            written[task.name] = EvaluationTask(
                rows=len(task.queries),
                candidates=len(task.candidates),
                meta_task=task.meta_task,
                distribution=task.distribution,
            )
    return written


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, compress_level=QUICK_COMPRESSION)


def _pairs(tables: Iterable[pa.Table]) -> set[tuple[str, str]]:
    return {
        (text.casefold(), image)
        for table in tables
        for text, image in zip(table["qry"].to_pylist(), table["pos_image_path"].to_pylist(), strict=True)
    }


def _font_version(path: Path) -> str:
    with TTFont(path) as font:
        return str(font["name"].getDebugName(5))


def _unicode_version(path: Path) -> str:
    return _found(r"^# Version: (\S+)", path)


def _cldr_version(path: Path) -> str:
    return _found(r'cldrVersion CDATA #FIXED "([^"]+)"', CLDR / "dtd" / "ldml.dtd")


def _found(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise EmbedlineError(f"{path}: names no version", "Reinstall the Debian package that it belongs to.")
    return match.group(1)
