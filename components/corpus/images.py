"""Images as they come in: really decoded, within bounds, and with a path that stays inside its folder."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from components.corpus.quarantine import Rejected

MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 40_000_000
MAX_PATH_CHARACTERS = 1_000
MAX_NAME_BYTES = 255
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}


def checked_image(source: bytes | Path, name: str) -> tuple[bytes, str]:
    """Returns the bytes of an image that can be decoded, and the file extension of its format.

    Raises `Rejected` with the reason, in which the image is called `name`.
    """
    content = source if isinstance(source, bytes) else _read(source, name)
    if len(content) > MAX_IMAGE_BYTES:
        raise Rejected("image too large", f"{name} has more than {MAX_IMAGE_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(content), formats=tuple(EXTENSIONS)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise Rejected("image too large", f"{name} is {image.width}x{image.height} pixels")
            image.load()
            return content, EXTENSIONS[image.format or ""]
    except Rejected:
        raise
    except Image.DecompressionBombError as error:
        raise Rejected("image too large", name) from error
    except Exception as error:  # a decoder that meets broken bytes may raise anything
        raise Rejected("broken image", f"{name} cannot be decoded as PNG, JPEG, WebP or GIF") from error


def image_source(value: Any, folder: Path) -> bytes | Path:
    """Returns the bytes of an image cell, or the path that it names.

    A dict is what `datasets` stores for an image: `bytes`, or else `path`. Raises `Rejected` if `value` is neither, or
    leads out of `folder`.
    """
    if isinstance(value, Rejected):
        raise value
    if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or value == b"":
        raise Rejected("missing image", "the row names none")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise Rejected("wrong type", f"the image is a {type(value).__name__}")
    return Path(value) if Path(value).is_absolute() else folder / safe_path(value)


def safe_path(name: str) -> PurePosixPath:
    """Returns `name` as a relative path that cannot leave its folder; raises `Rejected` for any other."""
    path = PurePosixPath(name)
    try:
        long = len(name) > MAX_PATH_CHARACTERS or any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts)
    except UnicodeEncodeError as error:
        raise Rejected("unsafe path", name[:MAX_PATH_CHARACTERS]) from error
    if long or path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise Rejected("unsafe path", name[:MAX_PATH_CHARACTERS])
    return path


def inside(folder: Path, name: str) -> Path:
    """Returns the path of `name` below `folder`; raises `Rejected` for one that leads out of it."""
    return folder / safe_path(name)


def names_in(folder: Path) -> frozenset[str]:
    """Returns the names of what lies in a folder, none where there is no such folder."""
    return frozenset(child.name for child in folder.iterdir()) if folder.is_dir() else frozenset()


def _read(file: Path, name: str) -> bytes:
    try:
        if not file.is_file():
            raise Rejected("missing image", name)
        if file.stat().st_size > MAX_IMAGE_BYTES:
            raise Rejected("image too large", f"{name} has more than {MAX_IMAGE_BYTES:,} bytes")
        return file.read_bytes()
    except OSError as error:
        raise Rejected("missing image", f"{name} cannot be read: {error.strerror}") from error
