"""Image-text pairs from a folder of images: `NAME.txt` beside `NAME.png` holds its caption.

The caption is the text's first line that is not empty. Where no image has a text, the name of the folder that an image
is in is its label.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from components.corpus.config import FileSettings
from components.corpus.manifest import Input, Tasks
from components.corpus.pairs import ImageText, build_pairs
from components.corpus.quarantine import Quarantine, Rejected
from components.corpus.tables import located
from components.errors import UsageError
from components.files import file_sha256

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


class Settings(FileSettings):
    source: Literal["folder"]


def inputs(config: Settings) -> dict[str, Input]:
    """Returns one hash over the names and contents of all images and texts."""
    folder = located(config)
    digest = hashlib.sha256()
    for image in images(folder):
        for file in (image, image.with_suffix(".txt")):
            if file.is_file():
                digest.update(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\n".encode())
    return {folder.name: Input(version="", sha256=digest.hexdigest())}


def build(config: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    """Writes the pairs of the folder to `directory`, in both directions."""
    return build_pairs(config, directory, quarantine, pairs(config), located(config))


def pairs(config: Settings) -> Iterator[ImageText]:
    """Yields one pair for each image that has a text, or that lies in a subfolder where none has a text.

    Raises `UsageError` if there are no such images.
    """
    folder = located(config)
    files = images(folder)
    captioned = [image for image in files if image.with_suffix(".txt").is_file()]
    chosen = captioned or [image for image in files if image.parent != folder]
    if not chosen:
        raise UsageError(
            f"corpus.location: {folder} holds no images with texts beside them, and none in subfolders",
            f"It needs NAME{IMAGE_SUFFIXES[0]} (or {', '.join(IMAGE_SUFFIXES[1:])}) and NAME.txt, or LABEL/NAME.png.",
        )
    for number, image in enumerate(chosen):
        text = caption(image.with_suffix(".txt")) if captioned else image.parent.name.replace("_", " ")
        yield ImageText(image.relative_to(folder).as_posix(), number, str(image.absolute()), text)


def images(folder: Path) -> list[Path]:
    """Returns the images below a folder, in the order of their paths. Raises `UsageError` if it is none."""
    if not folder.is_dir():
        raise UsageError(f"corpus.location: {folder} is no folder", "Choose another corpus.source for a file.")
    walked = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(file for file in walked if file.suffix.lower() in IMAGE_SUFFIXES)


def caption(file: Path) -> str | Rejected:
    """Returns the first line of a text that is not empty, or why there is none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return Rejected("wrong type", f"{file.name} is not UTF-8")
    return next((line for line in lines if line.strip()), "")
