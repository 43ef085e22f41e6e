"""The graphs with matrix products of 4-bit weights, computed in fp32: an eighth of their size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Section


class Settings(Section):
    name: Literal["int4"]
    parity_cosine: Fraction


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    from components.export.quantisation import quantise_weights  # takes a second, and every command reads the settings

    quantise_weights(source, directory, 4)
