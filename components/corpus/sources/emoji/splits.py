"""Which concepts, variants and translations are trained on, and which are kept for the dev and the test split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from components.corpus.sources.emoji.characters import Annotations, Emoji
from components.corpus.splits import Split, priority, split_of


@dataclass(frozen=True)
class Splits:
    """Assigns by hash of what a thing is, so that the split of one thing never depends on the others."""

    seed: int
    dev_fraction: float
    eval_fraction: float
    withheld_fraction: float

    def concept(self, emoji: Emoji) -> Split:
        """Returns the split of a concept, the same for all its skin-tone variants."""
        return split_of(priority(self.seed, ("concept", emoji.concept)), self.dev_fraction, self.eval_fraction)

    def withheld(self, *key: object) -> Split:
        """Returns "train", or the split for which this fact about a trained concept is withheld."""
        return split_of(priority(self.seed, key), self.withheld_fraction / 4, self.withheld_fraction * 3 / 4)


@dataclass(frozen=True)
class Change:
    """A described change from one emoji to a variant of it, such as "with dark skin tone"."""

    before: Emoji
    text: str
    after: Emoji


class Inventory:
    """All emoji with their words, each fact bound to its split."""

    def __init__(self, emoji: Sequence[Emoji], annotations: dict[str, Annotations], splits: Splits) -> None:
        self.emoji = emoji
        self.annotations = annotations
        self.splits = splits

    @cached_property
    def concepts(self) -> list[Emoji]:
        """One emoji a concept: the first that Unicode lists."""
        first: dict[tuple[int, ...], Emoji] = {}
        for emoji in self.emoji:
            first.setdefault(emoji.concept, emoji)
        return list(first.values())

    def concepts_of(self, split: Split) -> list[Emoji]:
        return [emoji for emoji in self.concepts if self.splits.concept(emoji) == split]

    def toned_of(self, split: Split, known: bool) -> list[Emoji]:
        """Emoji with one skin tone: those of trained concepts (`known`) kept for `split`, or of its own concepts."""
        return [emoji for emoji in self.emoji if len(emoji.skin_tones) == 1 and self._belongs(emoji, split, known)]

    @cached_property
    def changes(self) -> list[Change]:
        """Every change in one step: a skin tone added, or a gender given."""
        by_signs = {emoji.concept + emoji.skin_tones: emoji for emoji in self.emoji}
        found = []
        for emoji in self.emoji:
            if len(emoji.skin_tones) == 1 and (plain := by_signs.get(emoji.concept)):
                found.append(Change(plain, f"with {emoji.skin_tones[0]}", emoji))
            neutral = by_signs.get(emoji.neutral + emoji.skin_tones)
            if emoji.gender and neutral and neutral != emoji:
                found.append(Change(neutral, f"as a {emoji.gender}", emoji))
        return found

    def changes_of(self, split: Split, known: bool) -> list[Change]:
        """Changes whose result belongs to `split`, as in `toned_of`; trained changes start from trained images."""
        return [
            change
            for change in self.changes
            if self._belongs(change.after, split, known)
            and (split != "train" or self._belongs(change.before, split, known))
        ]

    def _belongs(self, emoji: Emoji, split: Split, known: bool) -> bool:
        concept = self.splits.concept(emoji)
        return concept == "train" and self.splits.withheld(emoji.sequence) == split if known else concept == split

    def name(self, emoji: Emoji, language: str) -> str | None:
        return self.annotations[language].name(emoji)

    def keywords(self, emoji: Emoji, split: Split) -> list[str]:
        """Returns the English keywords, without the name, that training or the tests of `split` may use.

        Some trained concepts keep half of their keywords for the tests; an unseen concept has all for its own split.
        """
        words = [word for word in self.annotations["en"].keywords_of(emoji) if word.casefold() != emoji.name.casefold()]
        if self.splits.concept(emoji) != "train":
            return words if split == self.splits.concept(emoji) else []
        owner = self.splits.withheld("keywords", emoji.concept) if len(words) >= 4 else "train"
        asked = (
            set(Random(f"{self.splits.seed}:{emoji.code}").sample(words, len(words) // 2))
            if owner != "train"
            else set()
        )
        if split == "train":
            return [word for word in words if word not in asked]
        return [word for word in words if word in asked] if split == owner else []

    @cached_property
    def keyword_owners(self) -> dict[str, set[Emoji]]:
        owners: dict[str, set[Emoji]] = defaultdict(set)
        for emoji in self.concepts:
            for word in self.annotations["en"].keywords_of(emoji):
                owners[word].add(emoji)
        return owners
