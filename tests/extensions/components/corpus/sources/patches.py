"""Images of sixteen random patches, each under its number."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from components.corpus.config import SourceSettings
from components.corpus.manifest import Input, Tasks
from components.corpus.pairs import ImageText, build_pairs
from components.corpus.quarantine import Quarantine
from components.sections import Positive


class Settings(SourceSettings):
    source: Literal["patches"]
    images: Positive


def inputs(config: Settings) -> dict[str, Input]:
    return {}


def build(config: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    pairs = (ImageText("patches", number, image(number), f"patch {number}") for number in range(config.images))
    return build_pairs(config, directory, quarantine, pairs, directory)


def image(number: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()
