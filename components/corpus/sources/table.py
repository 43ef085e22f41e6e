"""Image-text pairs from one CSV, JSONL or Parquet file; image paths are absolute or relative to that file.

`corpus.columns` names the two columns, for instance `{image: file_name, text: caption}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from components.corpus.config import PairSettings
from components.corpus.images import image_source
from components.corpus.manifest import Input, Tasks
from components.corpus.pairs import ImageText, build_pairs
from components.corpus.quarantine import Quarantine, Rejected
from components.corpus.tables import file_pairs, located
from components.errors import UsageError
from components.files import file_sha256

FORMATS = (".csv", ".jsonl", ".parquet")


class Settings(PairSettings):
    source: Literal["table"]


def inputs(config: Settings) -> dict[str, Input]:
    """Returns the hash of the table together with all the images that it names."""
    file = located(config)
    digest = hashlib.sha256(file_sha256(file).encode())
    for pair in pairs(config):
        try:
            source = image_source(pair.image, file.parent)
        except Rejected:
            continue
        if isinstance(source, Path) and source.is_file():
            digest.update(file_sha256(source).encode())
    return {file.name: Input(version="", sha256=digest.hexdigest())}


def build(config: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    """Writes the pairs of the table to `directory`, in both directions."""
    return build_pairs(config, directory, quarantine, pairs(config), located(config).parent)


def pairs(config: Settings) -> Iterator[ImageText]:
    """Yields the rows of the table as they are, unchecked. Raises `UsageError` if it lacks a mapped column."""
    file = located(config)
    if file.suffix not in FORMATS:
        raise UsageError(
            f"corpus.location: {file}: a table ends in {', '.join(FORMATS)}",
            "Convert it, or choose another corpus.source.",
        )
    yield from file_pairs(file, file.name, config.columns)
