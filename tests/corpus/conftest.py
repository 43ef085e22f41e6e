import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.corpus.config import SOURCES
from components.sections import Section

MakeConfig = Callable[..., Section]
MakeImage = Callable[..., bytes]


@pytest.fixture
def config() -> MakeConfig:
    """Makes the corpus section of a source, with nothing held out and no tolerance by default."""

    def make(source: str, location: Path | str, **changes: Any) -> Section:
        fields: dict[str, Any] = {
            "source": source,
            "name": "shop",
            "location": str(location),
            "licence": "CC0-1.0",
            "seed": 7,
            "quarantine_limit": 0.0,
            "dev_fraction": 0.0,
            "eval_fraction": 0.0,
        }
        return SOURCES.validate(fields | changes)

    return make


@pytest.fixture
def make_image() -> MakeImage:
    """Makes the bytes of a small image; every number gives another one."""

    def make(number: int = 0, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", size, (number % 256, number // 256 % 256, number // 65536)).save(stream, kind)
        return stream.getvalue()

    return make
