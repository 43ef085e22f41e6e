"""The graphs with int8 weights: a quarter of the size, and faster where the processor multiplies int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from components.corpus import Item
from components.sections import Fraction, Positive, Section


class Settings(Section):
    """`calibration_images` of the training data show what ranges the activations of convolutions span."""

    name: Literal["int8"]
    parity_cosine: Fraction
    calibration_images: Positive


def write(settings: Settings, source: Path, directory: Path, items: Sequence[Item]) -> None:
    from components.export.exporters import calibration_of
    from components.export.quantisation import quantise  # takes a second, and every command reads the settings

    quantise(source, directory, calibration_of(source, items, settings.calibration_images))
