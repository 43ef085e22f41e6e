"""The student's graphs as they are, with a label beside them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Section


class Settings(Section):
    name: Literal["labelled"]
    parity_cosine: Fraction
    label: str


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    shutil.copytree(source, directory)
    (directory / "label.txt").write_text(settings.label, encoding="utf-8")
