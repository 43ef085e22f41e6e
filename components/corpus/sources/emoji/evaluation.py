"""The evaluation sets of the emoji corpus, for the dev and the test split, in MMEB's schema.

In distribution (IND) are sets about trained concepts whose particular fact was withheld: a skin-tone variant, a
translation, some keywords, a new scene. Out of distribution (OOD) are concepts that were never trained on, pictures
in the line-art font, and languages that were never trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import pyarrow as pa

from components.corpus.manifest import Distribution, MetaTask
from components.corpus.sources.emoji.characters import SKIN_TONES, Emoji
from components.corpus.sources.emoji.instructions import CROP, INSTRUCTIONS, PICTURE, SKILLS
from components.corpus.sources.emoji.scenes import COLOURS, NUMBERS, Scene
from components.corpus.sources.emoji.splits import Change, Inventory, Split
from components.corpus.sources.emoji.training import Part, crop, label, picture, scene_picture

MAX_QUERIES = MAX_CANDIDATES = 1000
ANSWERS: dict[str, tuple[str, ...]] = {"HowMany": NUMBERS, "Colour": tuple(COLOURS)}


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

    def ask(
        name: str,
        meta_task: MetaTask,
        distribution: Distribution,
        instruction: str,
        questions: Iterable[tuple[Part, Sequence[Part]]],
        pool: Iterable[Part],
        candidate_instruction: str = "",
    ) -> EvaluationSet:
        fresh = [question for question in questions if not _trained(question, trained_pairs)]
        return _assemble(
            name, meta_task, distribution, INSTRUCTIONS[instruction], candidate_instruction, fresh, list(pool), random
        )

    subgroups = [(label(name), "") for name in dict.fromkeys(emoji.subgroup for emoji in inventory.emoji)]
    groups = [(name, "") for name in dict.fromkeys(emoji.group for emoji in inventory.emoji)]
    tones = [(name, "") for name in SKIN_TONES.values()]

    def classify(
        name: str,
        instruction: str,
        emoji: Sequence[Emoji],
        of: Callable[[Emoji], str],
        labels: Sequence[Part],
        distribution: Distribution,
        image: Callable[[Emoji], str] = picture,
    ) -> EvaluationSet:
        return ask(
            name,
            "classification",
            distribution,
            instruction,
            ((("", image(item)), [(of(item), "")]) for item in emoji),
            labels,
        )

    variants, unseen_variants = inventory.toned_of(split, known=True), inventory.toned_of(split, known=False)
    yield classify("SkinTone", "SkinTone", variants, lambda item: item.skin_tones[0], tones, "IND")
    yield classify("SkinToneUnseen", "SkinTone", unseen_variants, lambda item: item.skin_tones[0], tones, "OOD")
    yield classify("Subgroup", "Subgroup", variants, lambda item: label(item.subgroup), subgroups, "IND")
    yield classify("SubgroupUnseen", "Subgroup", unseen, lambda item: label(item.subgroup), subgroups, "OOD")
    yield classify("GroupUnseen", "Group", unseen, lambda item: item.group, groups, "OOD")
    if art:
        yield classify("GroupLineArt", "Group", art, lambda item: item.group, groups, "OOD", line_art)

    about: tuple[tuple[Distribution, str, list[Emoji]], ...] = (("IND", "", known), ("OOD", "Unseen", unseen))
    for distribution, suffix, concepts in about:
        names = [(emoji.name, "") for emoji in concepts]
        for skill, task in SKILLS.items():
            answers = [(answer, "") for answer in ANSWERS[task]] if task in ANSWERS else names
            yield ask(
                f"{task}{suffix}",
                "vqa",
                distribution,
                "Question",
                (
                    ((question.text, scene_picture(scene)), [(question.answer, "")])
                    for scene in scenes[distribution]
                    for question in scene.questions
                    if question.skill == skill
                ),
                answers,
            )
        yield ask(
            f"Grounding{suffix}",
            "grounding",
            distribution,
            "Grounding",
            (
                ((emoji.name, scene_picture(scene)), [("", crop(scene, emoji))])
                for scene in scenes[distribution]
                for emoji, _ in scene.boxes
            ),
            [("", crop(scene, emoji)) for scene in scenes[distribution] for emoji, _ in scene.boxes],
            CROP,
        )
        changes = inventory.changes_of(split, known=distribution == "IND")
        yield ask(
            f"Composed{suffix}",
            "retrieval",
            distribution,
            "Composed",
            _change_questions(changes),
            _change_pool(inventory, changes),
            PICTURE,
        )

    pictures = [("", picture(emoji)) for emoji in unseen]
    yield ask(
        "NameToImageUnseen",
        "retrieval",
        "OOD",
        "NameToImage",
        (((emoji.name, ""), [("", picture(emoji))]) for emoji in unseen),
        pictures,
        PICTURE,
    )
    yield ask(
        "ImageToNameUnseen",
        "retrieval",
        "OOD",
        "ImageToName",
        ((("", picture(emoji)), [(emoji.name, "")]) for emoji in unseen),
        [(emoji.name, "") for emoji in unseen],
    )
    yield ask(
        "KeywordsToImage",
        "retrieval",
        "IND",
        "KeywordsToImage",
        _keyword_questions(inventory, split, known),
        [("", picture(emoji)) for emoji in known],
        PICTURE,
    )
    yield ask(
        "KeywordsToImageUnseen",
        "retrieval",
        "OOD",
        "KeywordsToImage",
        _keyword_questions(inventory, split, unseen),
        pictures,
        PICTURE,
    )
    translated: tuple[tuple[str, Distribution, Sequence[str]], ...] = (
        ("TranslatedNameToImage", "IND", trained_languages),
        ("UnseenLanguageToImage", "OOD", unseen_languages),
    )
    for name, distribution, languages in translated:
        yield ask(
            name,
            "retrieval",
            distribution,
            "NameToImage",
            (
                ((word, ""), [("", picture(emoji))])
                for language in languages
                for emoji in known
                if inventory.splits.withheld(language, emoji.concept) == split
                and (word := inventory.name(emoji, language))
            ),
            [("", picture(emoji)) for emoji in known],
            PICTURE,
        )
    if art:
        drawings = [("", line_art(emoji)) for emoji in art]
        labels = [(emoji.name, "") for emoji in art]
        yield ask(
            "NameToLineArt",
            "retrieval",
            "OOD",
            "NameToImage",
            ((text, [drawing]) for text, drawing in zip(labels, drawings, strict=True)),
            drawings,
            PICTURE,
        )
        yield ask(
            "LineArtToName",
            "retrieval",
            "OOD",
            "ImageToName",
            ((drawing, [text]) for text, drawing in zip(labels, drawings, strict=True)),
            labels,
        )


def multilingual_sets(inventory: Inventory, languages: Mapping[str, Distribution]) -> Iterator[EvaluationSet]:
    """Yields a set a language: its names of concepts that were never trained on, in any language, find their pictures.

    The sets are parallel: row by row they ask for the same picture, among the same candidates. Asked for are the
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
        yield _assemble(
            language,
            "retrieval",
            distribution,
            INSTRUCTIONS["NameToImage"],
            PICTURE,
            [((names[language][emoji], ""), [("", picture(emoji))]) for emoji in asked],
            [("", picture(emoji)) for emoji in unseen],
            Random(f"{inventory.splits.seed}:multilingual"),  # anew, so that every language is drawn alike
        )


def _trained(question: tuple[Part, Sequence[Part]], trained_pairs: set[tuple[str, str]]) -> bool:
    (text, image), relevant = question
    return not image and any((text.casefold(), path) in trained_pairs for _, path in relevant)


def _change_questions(changes: Sequence[Change]) -> Iterator[tuple[Part, Sequence[Part]]]:
    for change in changes:
        yield (change.text, picture(change.before)), [("", picture(change.after))]


def _change_pool(inventory: Inventory, changes: Sequence[Change]) -> list[Part]:
    """The results of all changes, and every other variant of the same concepts as a hard negative."""
    concepts = {change.after.concept for change in changes}
    variants = [emoji for emoji in inventory.emoji if emoji.concept in concepts and len(emoji.skin_tones) <= 1]
    return [("", picture(emoji)) for emoji in dict.fromkeys([*(change.after for change in changes), *variants])]


def _keyword_questions(
    inventory: Inventory, split: Split, concepts: Sequence[Emoji]
) -> Iterator[tuple[Part, Sequence[Part]]]:
    """Every emoji that has all the asked keywords is a right answer."""
    among = set(concepts)
    for emoji in concepts:
        words = inventory.keywords(emoji, split)
        if words:
            owners = set.intersection(*(inventory.keyword_owners[word] for word in words)) & among
            yield (", ".join(words), ""), [("", picture(owner)) for owner in sorted(owners, key=lambda one: one.code)]


def _assemble(
    name: str,
    meta_task: MetaTask,
    distribution: Distribution,
    instruction: str,
    candidate_instruction: str,
    questions: Sequence[tuple[Part, Sequence[Part]]],
    pool: Sequence[Part],
    random: Random,
) -> EvaluationSet:
    """Draws the queries and the pool: all relevant candidates of the drawn queries, then others, in random order."""
    distinct: dict[Part, dict[Part, None]] = {}
    for query, relevant in questions:
        distinct.setdefault(query, {}).update(dict.fromkeys(relevant))
    drawn: list[tuple[Part, dict[Part, None]]] = []
    needed: dict[Part, None] = {}
    for query, answers in random.sample(list(distinct.items()), len(distinct)):
        if len(drawn) < MAX_QUERIES and len(needed.keys() | answers.keys()) <= min(MAX_CANDIDATES, len(pool)):
            drawn.append((query, answers))
            needed.update(answers)
    others = [candidate for candidate in pool if candidate not in needed]
    candidates = [*needed, *random.sample(others, min(len(others), MAX_CANDIDATES - len(needed)))]
    random.shuffle(candidates)
    position = {candidate: index for index, candidate in enumerate(candidates)}
    return EvaluationSet(
        name,
        meta_task,
        distribution,
        instruction,
        candidate_instruction,
        queries=[query for query, _ in drawn],
        relevant=[sorted(position[candidate] for candidate in relevant) for _, relevant in drawn],
        candidates=candidates,
    )
