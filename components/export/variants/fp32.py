"""The student's graphs as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Section


class Settings(Section):
    name: Literal["fp32"]
    parity_cosine: Fraction


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    shutil.copytree(source, directory)
