"""Image-text pairs from WebDataset tars: one file, or a folder of shards.

`NAME.jpg` goes with `NAME.txt` or `NAME.json`.

`corpus.columns.text` names the extension that holds the text (default `txt`), or else the field of the JSON
(default `caption`); `corpus.columns.image` names the extension of the image (default: jpg, jpeg, png, webp).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from components.corpus.archive import intact, members
from components.corpus.config import PairSettings
from components.corpus.images import MAX_IMAGE_BYTES
from components.corpus.manifest import Input, Tasks
from components.corpus.pairs import ImageText, build_pairs
from components.corpus.quarantine import Quarantine, Rejected
from components.corpus.tables import located, record
from components.errors import UsageError
from components.files import file_sha256

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


class Settings(PairSettings):
    source: Literal["webdataset"]


def inputs(config: Settings) -> dict[str, Input]:
    """Returns one hash over the names and contents of all shards."""
    digest = hashlib.sha256()
    for shard in shards(config):
        digest.update(f"{shard.name}\0{file_sha256(shard)}\n".encode())
    return {located(config).name: Input(version="", sha256=digest.hexdigest())}


def build(config: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    """Writes the pairs of the shards to `directory`, in both directions."""
    return build_pairs(config, directory, quarantine, pairs(config, quarantine), located(config))


def shards(config: Settings) -> list[Path]:
    """Returns the tars in the order of their names; raises `UsageError` if there is none."""
    location = located(config)
    files = sorted(location.iterdir()) if location.is_dir() else [location]
    if not (tars := [file for file in files if file.name.endswith(TAR_SUFFIXES)]):
        raise UsageError(f"corpus.location: {location} holds no tar", f"A shard ends in {', '.join(TAR_SUFFIXES)}.")
    return tars


def pairs(config: Settings, quarantine: Quarantine) -> Iterator[ImageText]:
    """Yields one pair a sample; a sample is the files that follow each other with the same name up to its first dot."""
    images = (config.columns["image"],) if "image" in config.columns else IMAGE_EXTENSIONS
    for shard in shards(config):
        with intact(shard):
            samples = groupby(members(shard, quarantine), key=lambda member: sample(member[0]))
            for number, (_, files) in enumerate(samples):
                parts = {extension(path): stream.read(MAX_IMAGE_BYTES + 1) for path, stream in files}
                image = next((parts[name] for name in images if name in parts), None)
                yield ImageText(shard.name, number, image, text_of(parts, config.columns.get("text")))


def sample(path: PurePosixPath) -> str:
    return str(path.parent / path.name.split(".", 1)[0])


def extension(path: PurePosixPath) -> str:
    return path.name.partition(".")[2].lower()


def text_of(parts: dict[str, bytes], column: str | None) -> Any:
    """Returns the text of a sample: its part or the field of its JSON called `column`, or why there is none."""
    try:
        if (content := parts.get(column or "txt")) is not None:
            return content.decode()
        return record(parts["json"]).get(column or "caption") if "json" in parts else None
    except UnicodeDecodeError:
        return Rejected("wrong type", "the text is not UTF-8")
    except Rejected as rejected:
        return rejected
