"""The training rows of the emoji corpus: (query, positive) pairs of every kind that the evaluation asks about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import pyarrow as pa

from components.corpus.sources.emoji.characters import Emoji
from components.corpus.sources.emoji.instructions import CROP, IMAGE, INSTRUCTIONS, SKILLS
from components.corpus.sources.emoji.scenes import Scene
from components.corpus.sources.emoji.splits import Inventory

Part = tuple[str, str]  # (text, image path), "" where there is none
KEYWORD_SETS = 3


def emoji_image(emoji: Emoji) -> str:
    return f"emoji/{emoji.code}.png"


def crop(scene: Scene, emoji: Emoji) -> str:
    return f"crops/{scene.code}-{emoji.code}.png"


def scene_image(scene: Scene) -> str:
    return f"scenes/{scene.code}.png"


def training_tables(inventory: Inventory, scenes: Sequence[Scene], languages: Sequence[str]) -> dict[str, pa.Table]:
    """Returns one table a task that has rows, in MMEB-train's columns plus the two instructions."""
    known = inventory.concepts_of("train")
    toned = inventory.toned_of("train", known=True)
    images = {emoji: ("", emoji_image(emoji)) for emoji in (*known, *toned)}
    tables = {
        "NameToImage": _table("NameToImage", [((emoji.name, ""), images[emoji]) for emoji in known], IMAGE),
        "ImageToName": _table("ImageToName", [(images[emoji], (emoji.name, "")) for emoji in known]),
        "ImageToVariantName": _table("ImageToName", [(images[emoji], (emoji.name, "")) for emoji in toned]),
        "KeywordsToImage": _table("KeywordsToImage", _keyword_rows(inventory, known), IMAGE),
        "TranslatedNameToImage": _table("NameToImage", _translated_rows(inventory, languages), IMAGE),
        "TranslatedNameToName": _table("Translation", _translations(inventory, languages)),
        "Group": _table("Group", [(images[emoji], (emoji.group, "")) for emoji in known]),
        "Subgroup": _table("Subgroup", [(images[emoji], (label(emoji.subgroup), "")) for emoji in known]),
        "SkinTone": _table("SkinTone", [(images[emoji], (emoji.skin_tones[0], "")) for emoji in toned]),
        "Composed": _table(
            "Composed",
            [
                ((change.text, emoji_image(change.before)), ("", emoji_image(change.after)))
                for change in inventory.changes_of("train", known=True)
            ],
            IMAGE,
        ),
        "Grounding": _table(
            "Grounding",
            [
                ((emoji.name, scene_image(scene)), ("", crop(scene, emoji)))
                for scene in scenes
                for emoji, _ in scene.boxes
            ],
            CROP,
        ),
    }
    for skill, task in SKILLS.items():
        tables[task] = _table(
            "Question",
            [
                ((question.text, scene_image(scene)), (question.answer, ""))
                for scene in scenes
                for question in scene.questions
                if question.skill == skill
            ],
        )
    return {task: table for task, table in tables.items() if table.num_rows}


def label(subgroup: str) -> str:
    return subgroup.replace("-", " ")


def _keyword_rows(inventory: Inventory, known: Sequence[Emoji]) -> Iterable[tuple[Part, Part]]:
    for emoji in known:
        words = inventory.keywords(emoji, "train")
        random = Random(f"{inventory.splits.seed}:keywords:{emoji.code}")
        sets = (
            {tuple(random.sample(words, random.randint(1, len(words)))) for _ in range(KEYWORD_SETS)}
            if words
            else set()
        )
        for chosen in sorted(sets):
            yield (", ".join(chosen), ""), ("", emoji_image(emoji))


def _translated_rows(inventory: Inventory, languages: Sequence[str]) -> Iterable[tuple[Part, Part]]:
    for emoji, name in _translated_names(inventory, languages):
        yield (name, ""), ("", emoji_image(emoji))


def _translations(inventory: Inventory, languages: Sequence[str]) -> Iterable[tuple[Part, Part]]:
    for emoji, name in _translated_names(inventory, languages):
        yield (name, ""), (emoji.name, "")


def _translated_names(inventory: Inventory, languages: Sequence[str]) -> Iterable[tuple[Emoji, str]]:
    for language in languages:
        for emoji in inventory.concepts_of("train"):
            name = inventory.name(emoji, language)
            if name and inventory.splits.withheld(language, emoji.concept) == "train":
                yield emoji, name


def _table(instruction: str, rows: Iterable[tuple[Part, Part]], positive_instruction: str = "") -> pa.Table:
    pairs = list(rows)
    queries, positives = ([pair[side] for pair in pairs] for side in (0, 1))
    empty = pa.array([""] * len(queries))
    return pa.table(
        {
            "qry_inst": pa.array([INSTRUCTIONS[instruction]] * len(queries)),
            "qry": pa.array([text for text, _ in queries]),
            "qry_image_path": pa.array([image for _, image in queries]),
            "pos_inst": pa.array([positive_instruction] * len(queries)),
            "pos_text": pa.array([text for text, _ in positives]),
            "pos_image_path": pa.array([image for _, image in positives]),
            "neg_text": empty,
            "neg_image_path": empty,
        }
    )
