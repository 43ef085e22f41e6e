"""The evaluation sets of the emoji corpus, for the dev and the test split, in MMEB's schema.

In distribution (IND) are sets about trained concepts whose particular fact was withheld: a skin-tone variant, a
translation, some keywords, a new scene. Out of distribution (OOD) are concepts that were never trained on, images
in the line-art font, and languages that were never trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

import numpy as np
import pyarrow as pa

from components.corpus.manifest import Distribution, MetaTask
from components.corpus.sources.emoji.characters import SKIN_TONES, Emoji
from components.corpus.sources.emoji.instructions import CROP, IMAGE, INSTRUCTIONS, SKILLS
from components.corpus.sources.emoji.scenes import COLOURS, NUMBERS, Scene
from components.corpus.sources.emoji.splits import Inventory
from components.corpus.sources.emoji.training import Part, crop, emoji_image, label, scene_image
from components.corpus.splits import Split

MAX_QUERIES = MAX_CANDIDATES = 1000
ANSWERS: dict[str, tuple[str, ...]] = {"HowMany": NUMBERS, "Colour": tuple(COLOURS)}


Question = tuple[Part, Sequence[Part]]
"""A query and its relevant candidates."""


@dataclass(frozen=True)
class Draft:
    """A set before it is drawn: every question that it may ask, and every candidate that it may offer.

    `instruction` is a key of `INSTRUCTIONS`, `candidate_instruction` is the text itself.
    """

    name: str
    meta_task: MetaTask
    distribution: Distribution
    instruction: str
    questions: Sequence[Question]
    pool: Sequence[Part]
    candidate_instruction: str = ""


@dataclass(frozen=True)
class EvaluationSet:
    """Questions over one pool of candidates: each query with the positions of its relevant candidates."""

    name: str
    meta_task: MetaTask
    distribution: Distribution
    instruction: str
    candidate_instruction: str
    queries: Sequence[Part]
    relevant: Sequence[Sequence[int]]
    candidates: Sequence[Part]

    def table(self) -> pa.Table:
        """Returns the rows in the columns of MMEB's re-issue with split instructions, plus `label`."""
        rows, pool = len(self.queries), len(self.candidates)
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * pool)
        positions = pa.array(np.tile(np.arange(pool, dtype=np.int32), rows))

        def candidates(part: int) -> pa.Array:
            values = pa.array([candidate[part] for candidate in self.candidates])
            return pa.ListArray.from_arrays(offsets, values.take(positions))

        return pa.table(
            {
                "qry_inst": pa.array([self.instruction] * rows),
                "qry_text": pa.array([text for text, _ in self.queries]),
                "qry_img_path": pa.array([image for _, image in self.queries]),
                "tgt_inst": pa.array([self.candidate_instruction] * rows),
                "tgt_text": candidates(0),
                "tgt_img_path": candidates(1),
                "label": pa.array(self.relevant, pa.list_(pa.int32())),
            }
        )


def line_art(emoji: Emoji) -> str:
    return f"line-art/{emoji.code}.png"


def evaluation_sets(
    inventory: Inventory,
    split: Split,
    scenes: Mapping[Distribution, Sequence[Scene]],
    drawn: set[Emoji],
    trained_languages: Sequence[str],
    unseen_languages: Sequence[str],
    trained_pairs: set[tuple[str, str]],
) -> Iterator[EvaluationSet]:
    """Yields the sets of a split.

    `scenes` holds the scenes of the split under "IND" and "OOD"; `drawn` the emoji that the line-art font has;
    `trained_pairs` every (case-folded text, image) of the training rows: such a pair is never asked again.
    """
    random = Random(f"{inventory.splits.seed}:{split}:evaluation")
    known, unseen = inventory.concepts_of("train"), inventory.concepts_of(split)
    art = [emoji for emoji in known if emoji in drawn] if split == "eval" else []
    drafts = chain(
        _classifications(inventory, split),
        _line_art_groups(inventory, art),
        _about_scenes(scenes["IND"], "IND", "", known),
        _changes(inventory, split, "IND", ""),
        _about_scenes(scenes["OOD"], "OOD", "Unseen", unseen),
        _changes(inventory, split, "OOD", "Unseen"),
        _names(unseen),
        _keywords(inventory, split, "IND", "", known),
        _keywords(inventory, split, "OOD", "Unseen", unseen),
        _translations(inventory, split, "IND", "TranslatedNameToImage", trained_languages),
        _translations(inventory, split, "OOD", "UnseenLanguageToImage", unseen_languages),
        _line_art_names(art),
    )
    for draft in drafts:
        fresh = [question for question in draft.questions if not _trained(question, trained_pairs)]
        yield _drawn(draft, fresh, random)


def multilingual_sets(inventory: Inventory, languages: Mapping[str, Distribution]) -> Iterator[EvaluationSet]:
    """Yields a set a language: its names of concepts that were never trained on, in any language, find their images.

    The sets are parallel: row by row they ask for the same image, among the same candidates. Asked for are the
    concepts that have a name of their own in every one of the languages.
    """
    unseen = inventory.concepts_of("eval")

    def own_names(language: str) -> dict[Emoji, str]:
        named = {emoji: name for emoji in unseen if (name := inventory.name(emoji, language))}
        bearers = Counter(name.casefold() for name in named.values())
        return {emoji: name for emoji, name in named.items() if bearers[name.casefold()] == 1}

    names = {language: own_names(language) for language in languages}
    asked = [emoji for emoji in unseen if all(emoji in named for named in names.values())]
    for language, distribution in languages.items():
        questions = [((names[language][emoji], ""), [("", emoji_image(emoji))]) for emoji in asked]
        draft = Draft(language, "retrieval", distribution, "NameToImage", questions, _images(unseen), IMAGE)
        # The generator is a new one each time, so that every language is drawn alike.
        yield _drawn(draft, questions, Random(f"{inventory.splits.seed}:multilingual"))


def _classifications(inventory: Inventory, split: Split) -> Iterator[Draft]:
    """Skin tones, kinds and groups: of variants that were withheld, and of concepts that were never trained on."""
    unseen = inventory.concepts_of(split)
    variants, unseen_variants = inventory.toned_of(split, known=True), inventory.toned_of(split, known=False)
    tones = list(SKIN_TONES.values())
    subgroups = [label(name) for name in dict.fromkeys(emoji.subgroup for emoji in inventory.emoji)]

    def tone(emoji: Emoji) -> str:
        return emoji.skin_tones[0]

    def subgroup(emoji: Emoji) -> str:
        return label(emoji.subgroup)

    yield _classification("SkinTone", "SkinTone", "IND", variants, tone, tones)
    yield _classification("SkinToneUnseen", "SkinTone", "OOD", unseen_variants, tone, tones)
    yield _classification("Subgroup", "Subgroup", "IND", variants, subgroup, subgroups)
    yield _classification("SubgroupUnseen", "Subgroup", "OOD", unseen, subgroup, subgroups)
    yield _classification("GroupUnseen", "Group", "OOD", unseen, _group, _groups(inventory))


def _line_art_groups(inventory: Inventory, art: Sequence[Emoji]) -> Iterator[Draft]:
    if art:
        yield _classification("GroupLineArt", "Group", "OOD", art, _group, _groups(inventory), line_art)


def _classification(
    name: str,
    instruction: str,
    distribution: Distribution,
    emoji: Sequence[Emoji],
    of: Callable[[Emoji], str],
    labels: Sequence[str],
    image: Callable[[Emoji], str] = emoji_image,
) -> Draft:
    questions = [(("", image(one)), [(of(one), "")]) for one in emoji]
    return Draft(name, "classification", distribution, instruction, questions, [(label, "") for label in labels])


def _group(emoji: Emoji) -> str:
    return emoji.group


def _groups(inventory: Inventory) -> list[str]:
    return list(dict.fromkeys(emoji.group for emoji in inventory.emoji))


def _about_scenes(
    scenes: Sequence[Scene], distribution: Distribution, suffix: str, concepts: Sequence[Emoji]
) -> Iterator[Draft]:
    """What scenes show, how often, on which ground and where; and the part of a scene that shows a named thing."""
    names = [emoji.name for emoji in concepts]
    for skill, task in SKILLS.items():
        questions = [
            ((question.text, scene_image(scene)), [(question.answer, "")])
            for scene in scenes
            for question in scene.questions
            if question.skill == skill
        ]
        answers = [(answer, "") for answer in ANSWERS.get(task, names)]
        yield Draft(f"{task}{suffix}", "vqa", distribution, "Question", questions, answers)
    shown = [(scene, emoji) for scene in scenes for emoji, _ in scene.boxes]
    crops = [("", crop(scene, emoji)) for scene, emoji in shown]
    located = [((emoji.name, scene_image(scene)), [part]) for (scene, emoji), part in zip(shown, crops, strict=True)]
    yield Draft(f"Grounding{suffix}", "grounding", distribution, "Grounding", located, crops, CROP)


def _changes(inventory: Inventory, split: Split, distribution: Distribution, suffix: str) -> Iterator[Draft]:
    """An emoji and a change, among the results of all changes and every other variant of the same concepts."""
    changes = inventory.changes_of(split, known=distribution == "IND")
    results = [change.after for change in changes]
    concepts = {emoji.concept for emoji in results}
    variants = [emoji for emoji in inventory.emoji if emoji.concept in concepts and len(emoji.skin_tones) <= 1]
    questions = [((change.text, emoji_image(change.before)), [("", emoji_image(change.after))]) for change in changes]
    pool = _images(dict.fromkeys([*results, *variants]))
    yield Draft(f"Composed{suffix}", "retrieval", distribution, "Composed", questions, pool, IMAGE)


def _names(unseen: Sequence[Emoji]) -> Iterator[Draft]:
    """Names of concepts that were never trained on, in both directions."""
    names, images = [(emoji.name, "") for emoji in unseen], _images(unseen)
    there = [(name, [image]) for name, image in zip(names, images, strict=True)]
    back = [(image, [name]) for name, image in zip(names, images, strict=True)]
    yield Draft("NameToImageUnseen", "retrieval", "OOD", "NameToImage", there, images, IMAGE)
    yield Draft("ImageToNameUnseen", "retrieval", "OOD", "ImageToName", back, names)


def _keywords(
    inventory: Inventory, split: Split, distribution: Distribution, suffix: str, concepts: Sequence[Emoji]
) -> Iterator[Draft]:
    """Keywords of an emoji; every emoji that has all of them is a right answer."""
    questions: list[Question] = []
    among = set(concepts)
    for emoji in concepts:
        if words := inventory.keywords(emoji, split):
            owners = set.intersection(*(inventory.keyword_owners[word] for word in words)) & among
            questions.append(((", ".join(words), ""), _images(sorted(owners, key=lambda one: one.code))))
    name = f"KeywordsToImage{suffix}"
    yield Draft(name, "retrieval", distribution, "KeywordsToImage", questions, _images(concepts), IMAGE)


def _translations(
    inventory: Inventory, split: Split, distribution: Distribution, name: str, languages: Sequence[str]
) -> Iterator[Draft]:
    """Names of trained concepts in languages in which training has not seen them."""
    known = inventory.concepts_of("train")
    questions = [
        ((word, ""), [("", emoji_image(emoji))])
        for language in languages
        for emoji in known
        if inventory.splits.withheld(language, emoji.concept) == split and (word := inventory.name(emoji, language))
    ]
    yield Draft(name, "retrieval", distribution, "NameToImage", questions, _images(known), IMAGE)


def _line_art_names(art: Sequence[Emoji]) -> Iterator[Draft]:
    """Names of trained concepts and their line art, in both directions."""
    if art:
        names, drawings = [(emoji.name, "") for emoji in art], [("", line_art(emoji)) for emoji in art]
        there = [(name, [drawing]) for name, drawing in zip(names, drawings, strict=True)]
        back = [(drawing, [name]) for name, drawing in zip(names, drawings, strict=True)]
        yield Draft("NameToLineArt", "retrieval", "OOD", "NameToImage", there, drawings, IMAGE)
        yield Draft("LineArtToName", "retrieval", "OOD", "ImageToName", back, names)


def _images(emoji: Iterable[Emoji]) -> list[Part]:
    return [("", emoji_image(one)) for one in emoji]


def _trained(question: Question, trained_pairs: set[tuple[str, str]]) -> bool:
    (text, image), relevant = question
    return not image and any((text.casefold(), path) in trained_pairs for _, path in relevant)


def _drawn(draft: Draft, questions: Iterable[Question], random: Random) -> EvaluationSet:
    """Draws the queries and the pool: all relevant candidates of the drawn queries, then others, in random order."""
    distinct: dict[Part, dict[Part, None]] = {}
    for query, relevant in questions:
        distinct.setdefault(query, {}).update(dict.fromkeys(relevant))
    drawn: list[tuple[Part, dict[Part, None]]] = []
    needed: dict[Part, None] = {}
    for query, answers in random.sample(list(distinct.items()), len(distinct)):
        if len(drawn) < MAX_QUERIES and len(needed.keys() | answers.keys()) <= min(MAX_CANDIDATES, len(draft.pool)):
            drawn.append((query, answers))
            needed.update(answers)
    others = [candidate for candidate in draft.pool if candidate not in needed]
    candidates = [*needed, *random.sample(others, min(len(others), MAX_CANDIDATES - len(needed)))]
    random.shuffle(candidates)
    position = {candidate: index for index, candidate in enumerate(candidates)}
    return EvaluationSet(
        draft.name,
        draft.meta_task,
        draft.distribution,
        INSTRUCTIONS[draft.instruction],
        draft.candidate_instruction,
        queries=[query for query, _ in drawn],
        relevant=[sorted(position[candidate] for candidate in relevant) for _, relevant in drawn],
        candidates=candidates,
    )
