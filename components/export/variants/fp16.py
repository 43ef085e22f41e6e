"""The graphs in fp16, inputs and outputs in fp32: half of the size; processors without fp16 compute them in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Section


class Settings(Section):
    name: Literal["fp16"]
    parity_cosine: Fraction


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    from components.export.half_precision import halve  # takes a second, and every command reads the settings
    from components.export.onnx_graphs import rewrite

    rewrite(source, directory, halve)
