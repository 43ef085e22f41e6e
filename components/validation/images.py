"""Every image that a row names, looked at once: can it be read, how large is it, what are its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from components.corpus.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, safe_path
from components.corpus.quarantine import Rejected


@dataclass(frozen=True)
class ImageFile:
    """What one file turned out to be; `key` is equal for equal bytes, `problem` is None for a sound image."""

    key: int
    problem: str | None = None
    width: int | None = None
    height: int | None = None


class Images:
    """The images below one folder, by the path that rows give; each is read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, ImageFile] = {}

    def keys(self, paths: Sequence[str]) -> np.ndarray:
        """Returns a uint64 for each path, equal for equal bytes; 0 where the path is empty."""
        unseen = [path for path in dict.fromkeys(paths) if path and path not in self._seen]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self._seen.update(zip(unseen, pool.map(self._look, unseen), strict=True))
        return np.array([self._seen[path].key if path else 0 for path in paths], np.uint64)

    def frame(self) -> pd.DataFrame:
        """Returns a row for each image: path, problem, and in pixels shortest_side, longest_side, and their ratio."""
        rows = [(path, image.problem, image.width, image.height) for path, image in sorted(self._seen.items())]
        frame = pd.DataFrame(rows, columns=["path", "problem", "width", "height"])
        sides = frame[["width", "height"]].astype(float)
        frame["shortest_side"], frame["longest_side"] = sides.min(axis=1), sides.max(axis=1)
        frame["aspect"] = frame["longest_side"] / frame["shortest_side"]
        return frame.drop(columns=["width", "height"])

    def _look(self, path: str) -> ImageFile:
        try:
            file = self._folder / safe_path(path)
            if file.stat().st_size > MAX_IMAGE_BYTES:
                return ImageFile(_key(path.encode()), f"the file has more than {MAX_IMAGE_BYTES:,} bytes")
            content = file.read_bytes()
        except FileNotFoundError:
            return ImageFile(_key(path.encode()), "the file is missing")
        except OSError as error:
            return ImageFile(_key(path.encode()), f"the file cannot be read: {error.strerror}")
        except Rejected:
            return ImageFile(_key(path.encode()), "the path leads out of the folder of images")
        key = _key(content)
        try:
            width, height = _check(content)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return ImageFile(key, f"it cannot be decoded ({type(error).__name__})")
        if width * height > MAX_IMAGE_PIXELS:
            return ImageFile(key, f"it has more than {MAX_IMAGE_PIXELS:,} pixels", width, height)
        return ImageFile(key, None, width, height)


def _key(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _check(content: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(content)) as image:
        size = image.size
        if size[0] * size[1] > MAX_IMAGE_PIXELS:
            return size
        if image.format == "PNG":
            image.verify()  # checksums of all chunks: a quarter of the cost of decoding
        else:
            image.draft(image.mode, (1, 1))  # a JPEG is decoded at an eighth of its size; enough to find a cut file
            image.load()
        return size
