"""The graphs for OpenVINO, computed in bfloat16, on processors that have it: others are not to emulate it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Section


class Settings(Section):
    name: Literal["openvino_bf16"]
    parity_cosine: Fraction


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    from components.export.openvino_graphs import convert

    convert(source, directory, "bf16")


def obstacle() -> str | None:
    from components.export.openvino_graphs import missing_bf16

    return missing_bf16()
