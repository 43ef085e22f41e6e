"""The graphs for OpenVINO, computed in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Section


class Settings(Section):
    name: Literal["openvino_fp32"]
    parity_cosine: Fraction


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    from components.export.openvino_graphs import convert

    convert(source, directory, "f32")
