"""The emoji that Unicode lists, with their names and keywords in many languages from CLDR.

Sources: Unicode Technical Standard 51 (`emoji-test.txt`: sequences, groups, English names) and the Unicode
Common Locale Data Repository (`annotations`: names and keywords of every emoji).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from components.errors import EmbedlineError

EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
CLDR = Path("/usr/share/unicode/cldr/common")

SKIN_TONES = {
    0x1F3FB: "light skin tone",
    0x1F3FC: "medium-light skin tone",
    0x1F3FD: "medium skin tone",
    0x1F3FE: "medium-dark skin tone",
    0x1F3FF: "dark skin tone",
}
MAN, WOMAN, PERSON = 0x1F468, 0x1F469, 0x1F9D1
MALE_SIGN, FEMALE_SIGN = 0x2642, 0x2640
JOINER, VARIATION = 0x200D, 0xFE0F


@dataclass(frozen=True)
class Emoji:
    """One fully-qualified sequence."""

    sequence: tuple[int, ...]
    group: str
    subgroup: str
    name: str

    @property
    def text(self) -> str:
        return "".join(map(chr, self.sequence))

    @property
    def code(self) -> str:
        return "-".join(f"{point:x}" for point in self.sequence)

    @property
    def skin_tones(self) -> tuple[str, ...]:
        return tuple(SKIN_TONES[point] for point in self.sequence if point in SKIN_TONES)

    @property
    def gender(self) -> str | None:
        women = sum(point in (WOMAN, FEMALE_SIGN) for point in self.sequence)
        men = sum(point in (MAN, MALE_SIGN) for point in self.sequence)
        return {(1, 0): "woman", (0, 1): "man"}.get((women, men))

    @property
    def concept(self) -> tuple[int, ...]:
        """The signs without skin tones: all skin-tone variants of one thing share it."""
        return tuple(point for point in self.sequence if point not in SKIN_TONES and point != VARIATION)

    @property
    def neutral(self) -> tuple[int, ...]:
        """The signs of the concept without a gender: "woman cook" and "man cook" share those of "cook"."""
        kept: list[int] = []
        for point in self.concept:
            if point in (MALE_SIGN, FEMALE_SIGN) and kept and kept[-1] == JOINER:
                kept.pop()
            else:
                kept.append(PERSON if point in (MAN, WOMAN) else point)
        return tuple(kept)


def read_emoji(path: Path = EMOJI_TEST) -> list[Emoji]:
    """Returns the fully-qualified emoji in the order of the file. Raises `EmbedlineError` if it is missing."""
    emoji: list[Emoji] = []
    group = subgroup = ""
    for line in _lines(path, "unicode-data"):
        if line.startswith("# group:"):
            group = line.split(":", 1)[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":", 1)[1].strip()
        elif "; fully-qualified" in line:
            points, rest = line.split(";", 1)
            name = rest.split("#", 1)[1].split(None, 2)[2].strip()
            emoji.append(Emoji(tuple(int(point, 16) for point in points.split()), group, subgroup, name))
    return emoji


@dataclass(frozen=True)
class Annotations:
    """What CLDR calls each emoji in one language, by its text without variation selectors."""

    names: dict[str, str]
    keywords: dict[str, tuple[str, ...]]

    def name(self, emoji: Emoji) -> str | None:
        return self.names.get(_plain(emoji.text))

    def keywords_of(self, emoji: Emoji) -> tuple[str, ...]:
        return self.keywords.get(_plain(emoji.text), ())


def annotation_files(language: str, root: Path = CLDR) -> list[Path]:
    return [root / folder / f"{language}.xml" for folder in ("annotations", "annotationsDerived")]


def read_annotations(language: str, root: Path = CLDR) -> Annotations:
    """Returns names and keywords in `language` (a CLDR code such as "de"). Raises `EmbedlineError` if missing."""
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for path in annotation_files(language, root):
        _require(path, "unicode-cldr-core")
        for element in ElementTree.parse(path).iter("annotation"):  # noqa: S314 (a file of Debian)
            text, content = element.get("cp", ""), (element.text or "").strip()
            if not content or "↑" in content:
                continue
            if element.get("type") == "tts":
                names[text] = content
            else:
                keywords[text] = tuple(word.strip() for word in content.split("|"))
    return Annotations(names, keywords)


def _plain(text: str) -> str:
    return text.replace(chr(VARIATION), "")


def _lines(path: Path, package: str) -> Iterable[str]:
    _require(path, package)
    return path.read_text(encoding="utf-8").splitlines()


def _require(path: Path, package: str) -> None:
    if not path.is_file():
        raise EmbedlineError(f"{path}: missing", f"Install it with: apt-get install {package}")
